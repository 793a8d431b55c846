package gatewayapi

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// refuseWaypoint says why a Gateway of class towpath-waypoint is not accepted.
func (c *cluster) refuseWaypoint(gw *gwv1.Gateway) *refusal {
	if errs := validation.IsDNS1035Label(gw.Name); len(errs) > 0 {
		// Its Service carries its name, and is how the proxies find it.
		return &refusal{string(gwv1.GatewayReasonInvalidParameters), "the name of a waypoint must be one of a Service (a DNS label of at most 63 characters that begins with a letter): choose another"}
	}
	if len(gw.Spec.Addresses) > 0 {
		return &refusal{string(gwv1.GatewayReasonUnsupportedAddress), "spec.addresses: a waypoint has the address of its Service: remove the field"}
	}
	if i := gw.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return &refusal{string(gwv1.GatewayReasonInvalidParameters), fmt.Sprintf(
			"spec.infrastructure.parametersRef: no parameters of kind %s are known: remove the field", i.ParametersRef.Kind)}
	}
	for i := range gw.Spec.Listeners {
		if r := refuseListener(gw, i); r != nil {
			return &refusal{string(gwv1.GatewayReasonListenersNotValid), r.message}
		}
	}
	return nil
}

// refuseListener says why a listener is not the one that a waypoint has.
func refuseListener(gw *gwv1.Gateway, i int) *refusal {
	l := &gw.Spec.Listeners[i]
	switch {
	case l.Protocol != mesh.ProtocolHBONE:
		return &refusal{string(gwv1.ListenerReasonUnsupportedProtocol), fmt.Sprintf(
			"spec.listeners[%d].protocol: %s is not spoken by a waypoint: use %s", i, l.Protocol, mesh.ProtocolHBONE)}
	case l.Port != mesh.PortHBONE:
		return &refusal{string(gwv1.ListenerReasonPortUnavailable), fmt.Sprintf(
			"spec.listeners[%d].port: a waypoint listens on %d only", i, mesh.PortHBONE)}
	case i > 0:
		return &refusal{string(gwv1.ListenerReasonPortUnavailable), fmt.Sprintf("spec.listeners[%d]: a waypoint has one listener", i)}
	}
	return nil
}

func (c *cluster) gatewayStatuses() map[mesh.ProxyKey]gwv1.GatewayStatus {
	out := map[mesh.ProxyKey]gwv1.GatewayStatus{}
	for _, gw := range c.ours() {
		out[proxyKey(gw)] = c.gatewayStatus(gw)
	}
	return out
}

func (c *cluster) gatewayStatus(gw *gwv1.Gateway) gwv1.GatewayStatus {
	refused := c.refuseWaypoint(gw)
	state := c.in.Proxies[proxyKey(gw)]
	programmed := programmedGateway(refused, state)
	out := gwv1.GatewayStatus{Conditions: []metav1.Condition{acceptedGateway(refused), programmed}}
	if refused == nil {
		out.Addresses = statusAddresses(state.Addresses)
	}
	for i := range gw.Spec.Listeners {
		out.Listeners = append(out.Listeners, listenerStatus(gw, i, programmed))
	}
	for i := range out.Conditions {
		out.Conditions[i].ObservedGeneration = gw.Generation
	}
	return out
}

func acceptedGateway(refused *refusal) metav1.Condition {
	if refused != nil {
		return condition(string(gwv1.GatewayConditionAccepted), false, refused.reason, refused.message)
	}
	return condition(string(gwv1.GatewayConditionAccepted), true, string(gwv1.GatewayReasonAccepted), "accepted as a waypoint")
}

func programmedGateway(refused *refusal, state ProxyState) metav1.Condition {
	kind := string(gwv1.GatewayConditionProgrammed)
	switch {
	case refused != nil:
		return condition(kind, false, string(gwv1.GatewayReasonInvalid), "not accepted")
	case len(state.Addresses) == 0:
		return condition(kind, false, string(gwv1.GatewayReasonAddressNotAssigned), withProblem("its Service has no address yet", state))
	case !state.Ready:
		return condition(kind, false, string(gwv1.GatewayReasonPending), withProblem("no pod of the waypoint is ready", state))
	}
	return condition(kind, true, string(gwv1.GatewayReasonProgrammed), "the waypoint takes connections")
}

func withProblem(message string, state ProxyState) string {
	if state.Problem != "" {
		return message + ": " + state.Problem
	}
	return message
}

func listenerStatus(gw *gwv1.Gateway, i int, gateway metav1.Condition) gwv1.ListenerStatus {
	out := gwv1.ListenerStatus{Name: gw.Spec.Listeners[i].Name, SupportedKinds: []gwv1.RouteGroupKind{}}
	refused := refuseListener(gw, i)
	accepted := condition(string(gwv1.ListenerConditionAccepted), true, string(gwv1.ListenerReasonAccepted), "accepted")
	programmed := condition(string(gwv1.ListenerConditionProgrammed), gateway.Status == metav1.ConditionTrue, gateway.Reason, gateway.Message)
	if gateway.Reason == string(gwv1.GatewayReasonAddressNotAssigned) {
		programmed.Reason = string(gwv1.ListenerReasonPending)
	}
	if refused != nil {
		accepted = condition(string(gwv1.ListenerConditionAccepted), false, refused.reason, refused.message)
		programmed = condition(string(gwv1.ListenerConditionProgrammed), false, string(gwv1.ListenerReasonInvalid), "not accepted")
	}
	out.Conditions = []metav1.Condition{
		accepted,
		condition(string(gwv1.ListenerConditionConflicted), false, string(gwv1.ListenerReasonNoConflicts), "no conflicts"),
		programmed,
		condition(string(gwv1.ListenerConditionResolvedRefs), true, string(gwv1.ListenerReasonResolvedRefs), "no references"),
	}
	for j := range out.Conditions {
		out.Conditions[j].ObservedGeneration = gw.Generation
	}
	return out
}

func statusAddresses(list []string) []gwv1.GatewayStatusAddress {
	kind := gwv1.IPAddressType
	var out []gwv1.GatewayStatusAddress
	for _, a := range list {
		out = append(out, gwv1.GatewayStatusAddress{Type: &kind, Value: a})
	}
	return out
}

// classStatuses answers for every GatewayClass with our controller name.
func (c *cluster) classStatuses() map[string]gwv1.GatewayClassStatus {
	out := map[string]gwv1.GatewayClassStatus{}
	for name, class := range c.classes {
		s := c.classStatus(class)
		for i := range s.Conditions {
			s.Conditions[i].ObservedGeneration = class.Generation
		}
		out[name] = s
	}
	return out
}

func (c *cluster) classStatus(class *gwv1.GatewayClass) gwv1.GatewayClassStatus {
	kind := string(gwv1.GatewayClassConditionStatusAccepted)
	version := c.versionCondition()
	switch {
	case class.Name != mesh.ClassWaypoint:
		return gwv1.GatewayClassStatus{Conditions: []metav1.Condition{condition(kind, false, string(gwv1.GatewayClassReasonUnsupported),
			fmt.Sprintf("of the classes of %s only %s is served", mesh.ControllerName, mesh.ClassWaypoint)), version}}
	case class.Spec.ParametersRef != nil:
		return gwv1.GatewayClassStatus{Conditions: []metav1.Condition{condition(kind, false, string(gwv1.GatewayClassReasonInvalidParameters),
			fmt.Sprintf("spec.parametersRef: no parameters of kind %s are known: remove the field", class.Spec.ParametersRef.Kind)), version}}
	}
	return gwv1.GatewayClassStatus{
		Conditions:        []metav1.Condition{condition(kind, true, string(gwv1.GatewayClassReasonAccepted), "served by Towpath"), version},
		SupportedFeatures: supportedFeatures(),
	}
}

func (c *cluster) versionCondition() metav1.Condition {
	kind := string(gwv1.GatewayClassConditionStatusSupportedVersion)
	if sameMinor(c.in.BundleVersion, consts.BundleVersion) {
		return condition(kind, true, string(gwv1.GatewayClassReasonSupportedVersion), "Gateway API "+c.in.BundleVersion)
	}
	installed := c.in.BundleVersion
	if installed == "" {
		installed = "of an unknown version"
	}
	return condition(kind, false, string(gwv1.GatewayClassReasonUnsupportedVersion),
		fmt.Sprintf("the Gateway API CRDs are %s; Towpath is built and tested with %s", installed, consts.BundleVersion))
}

// supportedFeatures lists what the suite's mesh profiles can ask of a waypoint.
func supportedFeatures() []gwv1.SupportedFeature {
	names := []string{
		"GRPCRoute", "HTTPRoute", "Mesh", "MeshClusterIPMatching", "MeshConsumerRoute",
		"MeshHTTPRouteBackendRequestHeaderModification", "MeshHTTPRouteNamedRouteRule", "MeshHTTPRouteQueryParamMatching",
		"MeshHTTPRouteRedirectPath", "MeshHTTPRouteRedirectPort", "MeshHTTPRouteRewritePath", "MeshHTTPRouteSchemeRedirect",
	}
	slices.Sort(names) // the API demands ascending order
	var out []gwv1.SupportedFeature
	for _, n := range names {
		out = append(out, gwv1.SupportedFeature{Name: gwv1.FeatureName(n)})
	}
	return out
}
