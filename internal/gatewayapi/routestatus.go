package gatewayapi

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// routeStatuses answers for every parentRef that is ours. A route that has an
// entry of ours left from an earlier time and no such parentRef any more gets an
// empty list.
func (c *cluster) routeStatuses(routes []*route) map[RouteID][]gwv1.RouteParentStatus {
	out := map[RouteID][]gwv1.RouteParentStatus{}
	for _, r := range routes {
		var entries []gwv1.RouteParentStatus
		for _, a := range r.attachments {
			entries = append(entries, gwv1.RouteParentStatus{
				ParentRef: a.ref, ControllerName: mesh.ControllerName, Conditions: c.routeConditions(a),
			})
		}
		if len(entries) > 0 || hasOurs(r.parents) {
			out[r.id] = entries
		}
	}
	return out
}

func hasOurs(parents []gwv1.RouteParentStatus) bool {
	for _, p := range parents {
		if p.ControllerName == mesh.ControllerName {
			return true
		}
	}
	return false
}

func (c *cluster) routeConditions(a *attachment) []metav1.Condition {
	r := a.route
	accepted := a.acceptedCondition()
	out := []metav1.Condition{accepted, resolvedCondition(r.built)}
	if accepted.Status == metav1.ConditionTrue && len(r.built.invalid) > 0 {
		out = append(out, condition(string(gwv1.RouteConditionPartiallyInvalid), true,
			string(gwv1.RouteReasonUnsupportedValue), "Dropped Rule: "+r.built.describeInvalid()))
	}
	if accepted.Status == metav1.ConditionTrue {
		out = append(out, c.programmedCondition(a))
	}
	for i := range out {
		out[i].ObservedGeneration = r.generation
	}
	return out
}

func (a *attachment) acceptedCondition() metav1.Condition {
	kind := string(gwv1.RouteConditionAccepted)
	if a.refusal != nil {
		return condition(kind, false, a.refusal.reason, a.refusal.message)
	}
	if b := a.route.built; a.route.hopeless() {
		return condition(kind, false, b.invalid[0].reason, b.describeInvalid())
	}
	message := "applied by waypoint " + a.level.choice.proxy.String()
	if notes := append(a.notes, a.route.built.notes...); len(notes) > 0 {
		message += "; " + strings.Join(notes, "; ")
	}
	return condition(kind, true, string(gwv1.RouteReasonAccepted), message)
}

// resolvedCondition reports the first problem's reason and all messages.
func resolvedCondition(b *built) metav1.Condition {
	kind := string(gwv1.RouteConditionResolvedRefs)
	if len(b.unresolved) == 0 {
		return condition(kind, true, string(gwv1.RouteReasonResolvedRefs), "all references are resolved")
	}
	var messages []string
	for _, u := range b.unresolved {
		messages = append(messages, u.message)
	}
	return condition(kind, false, b.unresolved[0].reason, strings.Join(messages, "; "))
}

func (c *cluster) programmedCondition(a *attachment) metav1.Condition {
	proxy := a.level.choice.proxy
	state := c.in.Proxies[proxy]
	if state.EverReady {
		return condition(string(conditionProgrammed), true, "Programmed", fmt.Sprintf("connections pass waypoint %s", proxy))
	}
	message := fmt.Sprintf("waypoint %s has not been ready yet: connections go directly, without the route", proxy)
	if state.Problem != "" {
		message += ": " + state.Problem
	}
	return condition(string(conditionProgrammed), false, reasonPending, message)
}
