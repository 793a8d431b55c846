package gatewayapi

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

var (
	earlier = metav1.NewTime(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
	now     = metav1.NewTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
)

func entry(controller, parent string, conditions ...metav1.Condition) gwv1.RouteParentStatus {
	return gwv1.RouteParentStatus{
		ControllerName: gwv1.GatewayController(controller),
		ParentRef:      gwv1.ParentReference{Name: gwv1.ObjectName(parent)}, Conditions: conditions,
	}
}

func at(c metav1.Condition, t metav1.Time) metav1.Condition {
	c.LastTransitionTime = t
	return c
}

func TestMergeParents(t *testing.T) {
	accepted, refused := condition("Accepted", true, "Accepted", "m"), condition("Accepted", false, "NoMatchingParent", "m")
	other := condition("example.com/Other", true, "R", "")
	partly := condition("PartiallyInvalid", true, "UnsupportedValue", "Dropped Rule")
	foreign := entry("example.com/other", "front", at(refused, earlier))
	for _, c := range []struct {
		name                string
		current, ours, want []gwv1.RouteParentStatus
		changed             bool
	}{
		{"first time", nil, []gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", accepted)},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, now))}, true},
		{"the same keeps its time", []gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, earlier))},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", accepted)},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, earlier))}, false},
		{"another status has a new time", []gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, earlier))},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", refused)},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(refused, now))}, true},
		{"foreign entries stay first and untouched", []gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, earlier)), foreign},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", accepted)},
			[]gwv1.RouteParentStatus{foreign, entry(mesh.ControllerName, "web", at(accepted, earlier))}, false},
		{"foreign conditions in our entry stay, ours that ended go",
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(other, earlier), at(partly, earlier), at(accepted, earlier))},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", accepted)},
			[]gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(other, earlier), at(accepted, earlier))}, true},
		{"a parent that left", []gwv1.RouteParentStatus{entry(mesh.ControllerName, "web", at(accepted, earlier)), foreign},
			nil, []gwv1.RouteParentStatus{foreign}, true},
		{"nothing of ours", []gwv1.RouteParentStatus{foreign}, nil, []gwv1.RouteParentStatus{foreign}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := (&gwv1.RouteStatus{Parents: c.current}).DeepCopy().Parents
			got, changed := MergeParents(c.current, c.ours, now)
			if changed != c.changed || !same(got, c.want) {
				t.Errorf("changed %v, got\n%+v\nwant\n%+v", changed, got, c.want)
			}
			if !same(before, c.current) {
				t.Error("the current status was edited")
			}
			if _, again := MergeParents(got, c.ours, now); again {
				t.Error("a second merge wants to write again")
			}
		})
	}
}

func same(a, b []gwv1.RouteParentStatus) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ControllerName != b[i].ControllerName || a[i].ParentRef.Name != b[i].ParentRef.Name || len(a[i].Conditions) != len(b[i].Conditions) {
			return false
		}
		for j := range a[i].Conditions {
			if a[i].Conditions[j] != b[i].Conditions[j] {
				return false
			}
		}
	}
	return true
}

func TestMergeGateway(t *testing.T) {
	c := new(Translator).newCluster(Inputs{GatewayClasses: []*gwv1.GatewayClass{{
		ObjectMeta: metav1.ObjectMeta{Name: mesh.ClassWaypoint}, Spec: gwv1.GatewayClassSpec{ControllerName: mesh.ControllerName},
	}}})
	gw := &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "waypoint"}}
	gw.Spec.Listeners = []gwv1.Listener{{Name: "mesh", Port: mesh.PortHBONE, Protocol: mesh.ProtocolHBONE}}
	foreign := at(condition("example.com/Other", true, "R", ""), earlier)
	current := gwv1.GatewayStatus{Conditions: []metav1.Condition{
		foreign, at(metav1.Condition{Type: "Accepted", Status: metav1.ConditionUnknown, Reason: "Pending"}, earlier),
	}}
	got, changed := MergeGateway(current, c.gatewayStatus(gw), now)
	if !changed || got.Conditions[0] != foreign || got.Conditions[1].Status != metav1.ConditionTrue || got.Conditions[1].LastTransitionTime != now {
		t.Errorf("changed %v, %+v", changed, got)
	}
	if _, changed = MergeGateway(got, c.gatewayStatus(gw), metav1.Now()); changed {
		t.Error("a second merge wants to write again")
	}
}

func TestMergeClass(t *testing.T) {
	class := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: mesh.ClassWaypoint}}
	ours := new(Translator).newCluster(Inputs{BundleVersion: "v1.2.0"}).classStatus(class)
	got, changed := MergeClass(gwv1.GatewayClassStatus{}, ours, now)
	if !changed || len(got.SupportedFeatures) == 0 || got.Conditions[1].Reason != string(gwv1.GatewayClassReasonUnsupportedVersion) {
		t.Errorf("changed %v, %+v", changed, got)
	}
	if _, changed = MergeClass(got, ours, metav1.Now()); changed {
		t.Error("a second merge wants to write again")
	}
}

func TestDiffTables(t *testing.T) {
	table := func(name string, port uint16) *routing.Table {
		return &routing.Table{
			Key:       routing.TableKey{Parent: routing.Parent{Namespace: "shop", Name: name}},
			Listeners: []routing.Listener{{Port: port}},
		}
	}
	changed, removed := DiffTables(
		[]*routing.Table{table("a", 1), table("b", 1), table("c", 1)},
		[]*routing.Table{table("a", 1), table("b", 2), table("d", 1)})
	if len(changed) != 2 || changed[0].Key.Parent.Name != "b" || changed[1].Key.Parent.Name != "d" {
		t.Errorf("changed %v", changed)
	}
	if len(removed) != 1 || removed[0].Parent.Name != "c" {
		t.Errorf("removed %v", removed)
	}
}
