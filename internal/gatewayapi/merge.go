package gatewayapi

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// MergeParents puts our entries into a route's status.parents: foreign entries
// stay untouched and where they are, ours follow in the order of the
// parentRefs, and of ours what names no parentRef any more goes. Conditions that
// say what they said keep their time; foreign conditions in our entries stay.
// changed is false when there is nothing to write.
func MergeParents(current, ours []gwv1.RouteParentStatus, now metav1.Time) (merged []gwv1.RouteParentStatus, changed bool) {
	merged = []gwv1.RouteParentStatus{}
	var old []gwv1.RouteParentStatus
	for _, p := range current {
		if p.ControllerName == mesh.ControllerName {
			old = append(old, p)
		} else {
			merged = append(merged, p)
		}
	}
	own := slices.Clone(ours)
	for i := range own {
		var before []metav1.Condition
		for _, p := range old {
			if reflect.DeepEqual(p.ParentRef, own[i].ParentRef) {
				before = p.Conditions
				break
			}
		}
		own[i].Conditions = mergeConditions(before, own[i].Conditions, ourRouteConditions, now)
	}
	return append(merged, own...), !equality.Semantic.DeepEqual(old, own)
}

// MergeGateway puts our status into a Gateway's, likewise.
func MergeGateway(current, ours gwv1.GatewayStatus, now metav1.Time) (merged gwv1.GatewayStatus, changed bool) {
	merged = *current.DeepCopy()
	merged.Addresses = ours.Addresses
	merged.Conditions = mergeConditions(current.Conditions, ours.Conditions, ourGatewayConditions, now)
	merged.Listeners = nil
	for _, l := range ours.Listeners {
		var before []metav1.Condition
		for _, c := range current.Listeners {
			if c.Name == l.Name {
				before = c.Conditions
			}
		}
		l.Conditions = mergeConditions(before, l.Conditions, ourListenerConditions, now)
		merged.Listeners = append(merged.Listeners, l)
	}
	return merged, !equality.Semantic.DeepEqual(current, merged)
}

// MergeClass puts our status into a GatewayClass's, likewise.
func MergeClass(current, ours gwv1.GatewayClassStatus, now metav1.Time) (merged gwv1.GatewayClassStatus, changed bool) {
	merged = gwv1.GatewayClassStatus{
		Conditions:        mergeConditions(current.Conditions, ours.Conditions, ourClassConditions, now),
		SupportedFeatures: ours.SupportedFeatures,
	}
	return merged, !equality.Semantic.DeepEqual(current, merged)
}

// The types of conditions that are ours to set and to remove.
var (
	ourRouteConditions = []string{
		string(gwv1.RouteConditionAccepted), string(gwv1.RouteConditionResolvedRefs),
		string(gwv1.RouteConditionPartiallyInvalid), string(conditionProgrammed),
	}
	ourGatewayConditions  = []string{string(gwv1.GatewayConditionAccepted), string(gwv1.GatewayConditionProgrammed)}
	ourListenerConditions = []string{
		string(gwv1.ListenerConditionAccepted), string(gwv1.ListenerConditionConflicted),
		string(gwv1.ListenerConditionProgrammed), string(gwv1.ListenerConditionResolvedRefs),
	}
	ourClassConditions = []string{
		string(gwv1.GatewayClassConditionStatusAccepted), string(gwv1.GatewayClassConditionStatusSupportedVersion),
	}
)

// mergeConditions keeps the order of what is there, so that nothing is written
// just because the order differs.
func mergeConditions(current, ours []metav1.Condition, owned []string, now metav1.Time) []metav1.Condition {
	out := []metav1.Condition{}
	done := map[string]bool{}
	for _, c := range current {
		next, ok := findCondition(ours, c.Type)
		switch {
		case ok:
			next.LastTransitionTime = c.LastTransitionTime
			if next.Status != c.Status || c.LastTransitionTime.IsZero() {
				next.LastTransitionTime = now
			}
			out, done[c.Type] = append(out, next), true
		case !slices.Contains(owned, c.Type):
			out = append(out, c)
		}
	}
	for _, c := range ours {
		if !done[c.Type] {
			c.LastTransitionTime = now
			out = append(out, c)
		}
	}
	return out
}

func findCondition(list []metav1.Condition, kind string) (metav1.Condition, bool) {
	for _, c := range list {
		if c.Type == kind {
			return c, true
		}
	}
	return metav1.Condition{}, false
}

// DiffTables compares two Results' Tables: which to publish and which to
// withdraw.
func DiffTables(old, next []*routing.Table) (changed []*routing.Table, removed []routing.TableKey) {
	before := make(map[routing.TableKey]*routing.Table, len(old))
	for _, t := range old {
		before[t.Key] = t
	}
	for _, t := range next {
		if o := before[t.Key]; o != t && !reflect.DeepEqual(o, t) {
			changed = append(changed, t)
		}
		delete(before, t.Key)
	}
	for _, t := range old {
		if _, gone := before[t.Key]; gone {
			removed = append(removed, t.Key)
		}
	}
	return changed, removed
}

// sameMinor reports whether two versions like v1.6.3 agree in major and minor.
func sameMinor(a, b string) bool {
	minor := func(v string) string {
		parts := strings.SplitN(v, ".", 3)
		if len(parts) < 2 {
			return ""
		}
		return parts[0] + "." + parts[1]
	}
	return minor(a) != "" && minor(a) == minor(b)
}
