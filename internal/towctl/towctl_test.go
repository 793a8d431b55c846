package towctl

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/towpath-mesh/towpath/manifests"
)

func TestCleanupArgs(t *testing.T) {
	got := cleanupArgs([]string{"--node-name=n", "--host-proc=/host/proc", "--token=t", "--cni-conf-dir=/host/cni/net.d"})
	want := []string{"cleanup", "--stay", "--host-proc=/host/proc", "--cni-conf-dir=/host/cni/net.d"}
	if !slices.Equal(got, want) {
		t.Errorf("cleanup arguments %q, want %q", got, want)
	}
}

// TestInstallOrder: what others need comes first, and everything of the chart is
// applied.
func TestInstallOrder(t *testing.T) {
	rendered, err := manifests.Render(manifests.Defaults(""))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := parse(rendered)
	if err != nil {
		t.Fatal(err)
	}
	order(objects)
	at := func(kind string) int {
		for i, o := range objects {
			if o.GetKind() == kind {
				return i
			}
		}
		t.Fatalf("the chart has no %s", kind)
		return -1
	}
	for _, pair := range [][2]string{{"Namespace", "ServiceAccount"}, {"ServiceAccount", "Deployment"}, {"ClusterRole", "ClusterRoleBinding"}, {"Service", "DaemonSet"}} {
		if at(pair[0]) > at(pair[1]) {
			t.Errorf("%s comes after %s", pair[0], pair[1])
		}
	}
}

// TestDaemonSet: a pod of the template before that drains does not hide the new
// one.
func TestDaemonSet(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "z", UID: "ds", Annotations: map[string]string{templateGenerationAnnotation: "2"}}}
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Image: "i"}}
	ds.Status.DesiredNumberScheduled = 1
	pod := func(generation string, ready corev1.ConditionStatus) corev1.Pod {
		controller := true
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{templateGeneration: generation}, OwnerReferences: []metav1.OwnerReference{{UID: types.UID("ds"), Controller: &controller}}},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	tests := []struct {
		name string
		pods []corev1.Pod
		up   bool
	}{
		{"only the old one", []corev1.Pod{pod("1", corev1.ConditionTrue)}, false},
		{"new one not ready", []corev1.Pod{pod("1", corev1.ConditionTrue), pod("2", corev1.ConditionFalse)}, false},
		{"new one ready, old one drains", []corev1.Pod{pod("1", corev1.ConditionFalse), pod("2", corev1.ConditionTrue)}, true},
	}
	for _, tt := range tests {
		if got := daemonSet(ds, tt.pods); got.Up() != tt.up {
			t.Errorf("%s: %+v is up: %t, want %t", tt.name, got, got.Up(), tt.up)
		}
	}
}

func TestOutput(t *testing.T) {
	s := &Status{
		Components:   []Component{{Name: "towpath-controller", Image: "i", Ready: 1, Desired: 2}},
		Proxies:      []Proxy{{Role: "ztunnel", Pod: "towpath-system/z", Behind: 3}},
		Namespaces:   []Namespace{{Name: "shop", Enrolled: 1, Pods: 2, Waiting: []string{"web: no ztunnel"}}},
		Certificates: []Certificate{{Holder: "towpath-system/z", ID: "spiffe://td/ns/shop/sa/a", NotAfter: time.Now().Add(time.Hour)}},
		Problems:     []string{"pod towpath-system/x does not answer"},
	}
	var table bytes.Buffer
	if err := s.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"towpath-controller  1/2", "3 changes behind", "web: no ztunnel", "spiffe://td/ns/shop/sa/a", "problem: pod towpath-system/x"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, table.String())
		}
	}
	o := &options{output: "xml"}
	if err := o.print(&table, s, s.table); err == nil || !strings.Contains(err.Error(), `output "xml"`) {
		t.Errorf("output xml: %v", err)
	}
}
