package gatewayapi

import (
	"fmt"
	"slices"
	"strconv"
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
		if len(r.attachments) > 0 {
			out[r.id] = c.entriesOf(r)
		} else if hasOurs(r.parents) {
			out[r.id] = nil
		}
	}
	return out
}

// entriesOf returns the route's entries, those of before if nothing has changed.
func (c *cluster) entriesOf(r *route) []gwv1.RouteParentStatus {
	verdicts := make([]verdict, len(r.attachments))
	for i, a := range r.attachments {
		verdicts[i] = c.verdictOf(a)
	}
	if r.status.built == r.built && slices.Equal(r.status.verdicts, verdicts) {
		return r.status.entries
	}
	entries := make([]gwv1.RouteParentStatus, len(r.attachments))
	for i, a := range r.attachments {
		entries[i] = gwv1.RouteParentStatus{
			ParentRef: a.ref, ControllerName: mesh.ControllerName, Conditions: r.conditions(verdicts[i]),
		}
	}
	r.status = statusMemo{built: r.built, verdicts: verdicts, entries: entries}
	return entries
}

func (c *cluster) verdictOf(a *attachment) verdict {
	if a.refusal != nil {
		return verdict{refusal: *a.refusal}
	}
	if b := a.route.built; a.route.hopeless() {
		return verdict{refusal: refusal{b.invalid[0].reason, b.describeInvalid()}}
	}
	proxy := a.level.choice.proxy
	state := c.in.Proxies[proxy]
	return verdict{proxy: proxy, ports: describeNumbers(a.ports), notes: strings.Join(a.notes, "; "), programmed: state.EverReady, problem: state.Problem}
}

func hasOurs(parents []gwv1.RouteParentStatus) bool {
	for _, p := range parents {
		if p.ControllerName == mesh.ControllerName {
			return true
		}
	}
	return false
}

func (r *route) conditions(v verdict) []metav1.Condition {
	out := []metav1.Condition{r.acceptedCondition(v), resolvedCondition(r.built)}
	if v.refusal == (refusal{}) {
		if len(r.built.invalid) > 0 {
			out = append(out, condition(string(gwv1.RouteConditionPartiallyInvalid), true,
				string(gwv1.RouteReasonUnsupportedValue), "Dropped Rule: "+r.built.describeInvalid()))
		}
		out = append(out, programmedCondition(v))
	}
	for i := range out {
		out[i].ObservedGeneration = r.generation
	}
	return out
}

func (r *route) acceptedCondition(v verdict) metav1.Condition {
	kind := string(gwv1.RouteConditionAccepted)
	if v.refusal != (refusal{}) {
		return condition(kind, false, v.refusal.reason, v.refusal.message)
	}
	message := "applied by waypoint " + v.proxy.String() + " on " + v.ports
	if v.notes != "" {
		message += "; " + v.notes
	}
	if len(r.built.notes) > 0 {
		message += "; " + strings.Join(r.built.notes, "; ")
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

func programmedCondition(v verdict) metav1.Condition {
	if v.programmed {
		return condition(string(conditionProgrammed), true, "Programmed", fmt.Sprintf("connections pass waypoint %s", v.proxy))
	}
	message := fmt.Sprintf("waypoint %s has not been ready yet: connections go directly, without the route", v.proxy)
	if v.problem != "" {
		message += ": " + v.problem
	}
	return condition(string(conditionProgrammed), false, reasonPending, message)
}

// describeNumbers tells the ports at which a route hangs: for a parentRef without
// one they may be more than its author thought of.
func describeNumbers(ports []uint16) string {
	out := "port "
	if len(ports) > 1 {
		out = "ports "
	}
	for i, p := range ports {
		if i > 0 {
			out += ", "
		}
		out += strconv.Itoa(int(p))
	}
	return out
}
