package registry

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

func newIndex() *Index {
	return New(Options{TrustDomain: spiffeid.RequireTrustDomainFromString("example.org")})
}

func parse[T any](t testing.TB, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return out
}

func namespaceOf(name, label string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if label != "" {
		n.Labels = map[string]string{mesh.LabelMesh: label}
	}
	return n
}

// podOf makes a running pod; its UID is its name with the suffix "-uid".
func podOf(namespace, name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name + "-uid")},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "app"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}, {IP: "fd00::1"}}},
	}
	for _, e := range edits {
		e(p)
	}
	return p
}

func labels(kv ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func captured(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: mesh.ConditionEnrolled, Status: corev1.ConditionTrue}}
}

// text writes an update as one word for each change.
func text(u mesh.Update) string {
	var out []string
	for _, w := range u.Workloads {
		s := w.Name
		if w.Enrolled {
			s += "+enrolled"
		}
		if w.Tunnel == mesh.TunnelHBONE {
			s += "+hbone"
		}
		if w.Terminating {
			s += "+terminating"
		}
		if !w.Gateway.IsZero() {
			s += "+gateway=" + w.Gateway.String()
		}
		if w.HostNetwork {
			s += "+host"
		}
		out = append(out, s)
	}
	for _, s := range u.Services {
		out = append(out, fmt.Sprintf("svc:%s%v", s.Key, s.Addresses))
	}
	for _, s := range u.Slices {
		out = append(out, "slice:"+s.Key.String())
	}
	for _, id := range u.RemovedWorkloads {
		out = append(out, "-"+string(id))
	}
	for _, k := range u.RemovedServices {
		out = append(out, "-svc:"+k.String())
	}
	for _, k := range u.RemovedSlices {
		out = append(out, "-slice:"+k.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestEnrolment(t *testing.T) {
	proxy := func(p *corev1.Pod) {
		labels(mesh.LabelGatewayName, "waypoint", mesh.LabelManaged, "true")(p)
		p.Spec.ServiceAccountName = "waypoint"
	}
	for _, c := range []struct {
		name, label string
		pod         *corev1.Pod
		want        string
		problems    int
	}{
		{"not labelled", "", podOf("shop", "a"), "a", 0},
		{"labelled", "enabled", podOf("shop", "a"), "a+enrolled", 0},
		{"captured", "enabled", podOf("shop", "a", captured), "a+enrolled+hbone", 0},
		{"captured, no longer enrolled", "", podOf("shop", "a", captured), "a", 0},
		{"opted out", "enabled", podOf("shop", "a", captured, labels(mesh.LabelMesh, "disabled")), "a", 0},
		{"host network", "enabled", podOf("shop", "a", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), "a+host", 0},
		{"proxy", "enabled", podOf("shop", "w", proxy), "w+hbone+gateway=shop/waypoint", 0},
		{"a label makes no proxy", "enabled", podOf("shop", "a", labels(mesh.LabelGatewayName, "waypoint", mesh.LabelManaged, "true")), "a+enrolled", 0},
		{"finished", "enabled", podOf("shop", "a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "", 0},
		{"terminating", "enabled", podOf("shop", "a", captured, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }), "a+enrolled+hbone+terminating", 0},
		{"nonsense on the namespace", "on", podOf("shop", "a"), "a", 1},
		{"nonsense on the pod", "enabled", podOf("shop", "a", labels(mesh.LabelMesh, "off")), "a+enrolled", 1},
		{"a pod does not enrol itself", "", podOf("shop", "a", labels(mesh.LabelMesh, "enabled")), "a", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newIndex()
			x.SetNamespace(namespaceOf("shop", c.label))
			if got := text(x.SetPod(c.pod)); got != c.want {
				t.Errorf("namespace first: %q, want %q", got, c.want)
			}
			if got := x.Problems(); len(got) != c.problems {
				t.Errorf("problems %v, want %d", got, c.problems)
			}
			y := newIndex()
			y.SetPod(c.pod)
			y.SetNamespace(namespaceOf("shop", c.label))
			a, _ := x.Pod(mesh.WorkloadID(c.pod.UID))
			b, _ := y.Pod(mesh.WorkloadID(c.pod.UID))
			if a != b || !reflect.DeepEqual(x.Problems(), y.Problems()) {
				t.Errorf("the order matters: %+v and %+v", a, b)
			}
		})
	}
}

func TestNamespacesNeverEnrolled(t *testing.T) {
	x := newIndex()
	for _, name := range []string{"kube-system", mesh.SystemNamespace} {
		x.SetNamespace(namespaceOf(name, mesh.MeshEnabled))
		if got := text(x.SetPod(podOf(name, "a-"+name))); got != "a-"+name {
			t.Errorf("in %s: %q", name, got)
		}
	}
	if got := x.Problems(); len(got) != 2 || got[0].Kind != "Namespace" || got[0].Field != "metadata.labels[towpath.io/mesh]" {
		t.Errorf("problems %v", got)
	}
}

// TestLife follows one namespace and its pods; each step says only what changed.
func TestLife(t *testing.T) {
	x := newIndex()
	a, b := podOf("shop", "a"), podOf("shop", "b")
	again := podOf("shop", "a", func(p *corev1.Pod) { p.UID = "second" })
	done := podOf("shop", "b", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	for i, step := range []struct {
		do   func() mesh.Update
		want string
	}{
		{func() mesh.Update { return x.SetPod(a) }, "a"},
		{func() mesh.Update { return x.SetPod(a) }, ""},
		{func() mesh.Update { return x.SetPod(b) }, "b"},
		{func() mesh.Update { return x.SetNamespace(namespaceOf("shop", "enabled")) }, "a+enrolled b+enrolled"},
		{func() mesh.Update { return x.SetNamespace(namespaceOf("shop", "enabled")) }, ""},
		{func() mesh.Update { return x.SetPod(podOf("shop", "a", captured)) }, "a+enrolled+hbone"},
		{func() mesh.Update { return x.SetPod(again) }, "-a-uid a+enrolled"},
		{func() mesh.Update { return x.SetPod(done) }, "-b-uid"},
		{func() mesh.Update { return x.RemovePod("shop", "b") }, ""},
		{func() mesh.Update { return x.SetNamespace(namespaceOf("shop", "disabled")) }, "a"},
		{func() mesh.Update { return x.RemoveNamespace("shop") }, ""},
		{func() mesh.Update { return x.RemovePod("shop", "a") }, "-second"},
		{func() mesh.Update { return x.RemovePod("shop", "a") }, ""},
	} {
		if got := text(step.do()); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if _, ok := x.Pod("second"); ok {
		t.Error("a removed pod is still known")
	}
	if got := x.PodsOn("n1"); len(got) != 0 {
		t.Errorf("pods left on n1: %v", got)
	}
}

func TestFinishedPodStaysKnown(t *testing.T) {
	x := newIndex()
	x.SetPod(podOf("shop", "a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	got, ok := x.Pod("a-uid")
	if !ok || !got.Finished() || got.Enrolled {
		t.Errorf("%+v, %v", got, ok)
	}
}

func TestWorkload(t *testing.T) {
	x := newIndex()
	p := parse[corev1.Pod](t, `
metadata:
  name: web-5d9c-x7
  namespace: shop
  uid: u1
  labels: {pod-template-hash: 5d9c, app: web, app.kubernetes.io/version: "2"}
  ownerReferences: [{kind: ReplicaSet, name: web-5d9c, controller: true}]
spec: {nodeName: n7}
status: {phase: Running, podIPs: [{ip: 10.1.0.1}, {ip: "fd00::1"}]}
`)
	got := x.SetPod(p).Workloads[0]
	want := &mesh.Workload{
		ID: "u1", Namespace: "shop", Name: "web-5d9c-x7", ServiceAccount: "default",
		Identity: spiffeid.RequireFromString("spiffe://example.org/ns/shop/sa/default"), Node: "n7",
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")},
		OwnerKind: "Deployment", OwnerName: "web", App: "web", Version: "2",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestOwners(t *testing.T) {
	owner := func(kind, name string) func(*corev1.Pod) {
		yes := true
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
		}
	}
	for _, c := range []struct {
		pod        *corev1.Pod
		kind, name string
	}{
		{podOf("s", "p"), "Pod", "p"},
		{podOf("s", "p", owner("StatefulSet", "db")), "StatefulSet", "db"},
		{podOf("s", "p", owner("ReplicaSet", "bare")), "ReplicaSet", "bare"},
		{podOf("s", "p", labels("pod-template-hash", "1"), owner("ReplicaSet", "web-1")), "Deployment", "web"},
	} {
		if kind, name := ownerOf(c.pod); kind != c.kind || name != c.name {
			t.Errorf("got %s %s, want %s %s", kind, name, c.kind, c.name)
		}
	}
}

func TestHostNetworkHasNoIdentity(t *testing.T) {
	w := newIndex().SetPod(podOf("s", "p", func(p *corev1.Pod) { p.Spec.HostNetwork = true })).Workloads[0]
	if !w.Identity.IsZero() || len(w.Addresses) != 0 {
		t.Errorf("%+v", w)
	}
}

func TestService(t *testing.T) {
	x := newIndex()
	s := parse[corev1.Service](t, `
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.9
  clusterIPs: [10.96.0.9, "fd00::9"]
  ports:
  - {name: a, port: 80}
  - {name: b, port: 81, appProtocol: HTTP}
  - {name: c, port: 82, appProtocol: kubernetes.io/h2c}
  - {name: d, port: 83, appProtocol: kubernetes.io/wss}
  - {name: e, port: 84, appProtocol: example.com/own}
  - {name: f, port: 53, protocol: UDP}
  - {name: https, port: 443}
`)
	got := x.SetService(s).Services[0]
	want := &mesh.Service{
		Key: mesh.ServiceKey{Namespace: "shop", Name: "web"}, Hostname: "web.shop.svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.9"), netip.MustParseAddr("fd00::9")},
		Ports: []mesh.ServicePort{
			{Name: "a", Port: 80}, {Name: "b", Port: 81, Protocol: mesh.AppHTTP}, {Name: "c", Port: 82, Protocol: mesh.AppH2C},
			{Name: "d", Port: 83, Protocol: mesh.AppTLS}, {Name: "e", Port: 84, Protocol: mesh.AppTCP}, {Name: "https", Port: 443},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if u := x.SetService(s); !u.Empty() {
		t.Errorf("told again: %s", text(u))
	}
	s.Spec.Type = corev1.ServiceTypeExternalName
	if got := text(x.SetService(s)); got != "-svc:shop/web" {
		t.Errorf("became ExternalName: %q", got)
	}
	if got := text(x.SetService(s)); got != "" {
		t.Errorf("ExternalName again: %q", got)
	}
	headless := parse[corev1.Service](t, `{metadata: {name: db, namespace: shop}, spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 5432}]}}`)
	if got := text(x.SetService(headless)); got != "svc:shop/db[]" {
		t.Errorf("headless: %q", got)
	}
}

func TestBindings(t *testing.T) {
	x := newIndex()
	web, db := mesh.ServiceKey{Namespace: "shop", Name: "web"}, mesh.ServiceKey{Namespace: "shop", Name: "db"}
	service := func(k mesh.ServiceKey) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9"}}
	}
	bound := func() map[mesh.ServiceKey]mesh.Bindings {
		b := mesh.Bindings{Waypoints: []mesh.WaypointBinding{{Waypoint: mesh.ProxyKey{Namespace: "shop", Name: "waypoint"}}}}
		return map[mesh.ServiceKey]mesh.Bindings{web: b, db: b}
	}
	x.SetService(service(web))
	if got := text(x.SetBindings(bound())); got != "svc:shop/web[10.96.0.9]" {
		t.Errorf("bound: %q", got)
	}
	if got := text(x.SetBindings(bound())); got != "" {
		t.Errorf("bound again: %q", got)
	}
	// The binding of a Service that comes later waits for it.
	if u := x.SetService(service(db)); len(u.Services) != 1 || len(u.Services[0].Waypoints) != 1 {
		t.Errorf("late Service: %+v", u)
	}
	if got := text(x.SetBindings(nil)); got != "svc:shop/db[10.96.0.9] svc:shop/web[10.96.0.9]" {
		t.Errorf("unbound: %q", got)
	}
	if s, ok := x.Service(web); !ok || len(s.Waypoints) != 0 {
		t.Errorf("lookup: %+v, %v", s, ok)
	}
}

func TestSlice(t *testing.T) {
	x := newIndex()
	s := parse[discoveryv1.EndpointSlice](t, `
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 53, protocol: UDP}, {name: any}]
endpoints:
- {addresses: [10.1.0.1], conditions: {ready: true, serving: true, terminating: false}, nodeName: n1, zone: z1, targetRef: {kind: Pod, namespace: shop, name: a, uid: u1}}
- {addresses: [10.1.0.2], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.3]}
- {addresses: [10.1.0.4], targetRef: {kind: Pod, namespace: bank, name: vault, uid: u4}}
- {addresses: [nonsense]}
`)
	got := x.SetSlice(s).Slices[0]
	want := &mesh.EndpointSlice{
		Key: mesh.SliceKey{Namespace: "shop", Name: "web-1"}, Service: mesh.ServiceKey{Namespace: "shop", Name: "web"},
		Ports: []mesh.EndpointPort{{Name: "http", Port: 8080}},
		Endpoints: []mesh.Endpoint{
			{Address: netip.MustParseAddr("10.1.0.1"), Workload: "u1", Ready: true, Serving: true, Node: "n1", Zone: "z1"},
			{Address: netip.MustParseAddr("10.1.0.2"), Serving: true, Terminating: true},
			{Address: netip.MustParseAddr("10.1.0.3"), Ready: true, Serving: true},
			{Address: netip.MustParseAddr("10.1.0.4"), Ready: true, Serving: true},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if u := x.SetSlice(s); !u.Empty() {
		t.Errorf("told again: %s", text(u))
	}
	s.Labels = nil
	if got := text(x.SetSlice(s)); got != "-slice:shop/web-1" {
		t.Errorf("lost its Service: %q", got)
	}
	if got := text(x.RemoveSlice("shop", "web-1")); got != "" {
		t.Errorf("removed twice: %q", got)
	}
}

// BenchmarkSetPod changes one pod of 100,000: it must not depend on how many
// there are.
func BenchmarkSetPod(b *testing.B) {
	for _, n := range []int{1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x := newIndex()
			x.SetNamespace(namespaceOf("shop", "enabled"))
			for i := range n {
				x.SetPod(podOf("shop", fmt.Sprintf("p%d", i)))
			}
			states := []*corev1.Pod{podOf("shop", "p7", captured), podOf("shop", "p7")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if u := x.SetPod(states[i%2]); len(u.Workloads) != 1 {
					b.Fatal("nothing changed")
				}
			}
		})
	}
}
