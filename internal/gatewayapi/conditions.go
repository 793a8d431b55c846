package gatewayapi

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Reasons that Gateway API has no constant for. Conflicted is named by GEP-1294;
// the others are our own, where no standard reason would tell the user what is
// wrong.
const (
	reasonConflicted      = "Conflicted"
	reasonNotEnrolled     = "NamespaceNotEnrolled"
	reasonServiceType     = "UnsupportedServiceType"
	reasonNoWaypoint      = "WaypointNotFound"
	reasonWaypointRefused = "WaypointRefused"
	reasonPending         = "WaypointPending"
)

// conditionProgrammed on a route's parent says whether connections pass the
// waypoint that applies the route. Gateway API has such a condition for Gateways
// only.
const conditionProgrammed gwv1.RouteConditionType = "towpath.io/Programmed"

// maxMessage is below what the API allows for a condition (32768), and more than
// anybody reads.
const maxMessage = 1024

// condition makes one without a time and without a generation.
func condition(kind string, status bool, reason, message string) metav1.Condition {
	s := metav1.ConditionFalse
	if status {
		s = metav1.ConditionTrue
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + " ..."
	}
	return metav1.Condition{Type: kind, Status: s, Reason: reason, Message: message}
}
