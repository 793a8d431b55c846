package gatewayapi

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// manyRoutes makes n routes of ten rules below n/5 Services in ten namespaces.
func manyRoutes(n int) Inputs {
	in := Inputs{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"),
		GatewayClasses: []*gwv1.GatewayClass{{
			ObjectMeta: metav1.ObjectMeta{Name: mesh.ClassWaypoint},
			Spec:       gwv1.GatewayClassSpec{ControllerName: mesh.ControllerName},
		}},
		Proxies: map[mesh.ProxyKey]ProxyState{},
	}
	for i := range 10 {
		name := fmt.Sprintf("ns%d", i)
		in.Namespaces = append(in.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{mesh.LabelMesh: mesh.MeshEnabled}}})
		in.Proxies[mesh.ProxyKey{Namespace: name, Name: mesh.DefaultWaypoint}] = ProxyState{EverReady: true}
	}
	services := max(n/5, 10)
	for i := range services {
		in.Services = append(in.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns%d", i%10), Name: fmt.Sprintf("s%d", i)},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: 80}}},
		})
	}
	for i := range n {
		in.HTTPRoutes = append(in.HTTPRoutes, routeNumber(i, in.Services[i%services]))
	}
	return in
}

func routeNumber(i int, s *corev1.Service) *gwv1.HTTPRoute {
	group, kind, port := gwv1.Group(""), gwv1.Kind("Service"), gwv1.PortNumber(80)
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: fmt.Sprintf("r%d", i), ResourceVersion: "1"}}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Group: &group, Kind: &kind, Name: gwv1.ObjectName(s.Name)}}
	for j := range 10 {
		path, prefix := fmt.Sprintf("/r%d/%d", i, j), gwv1.PathMatchPathPrefix
		r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{
			Matches: []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Type: &prefix, Value: &path}}},
			BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
				BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(s.Name), Port: &port},
			}}},
		})
	}
	return r
}

func BenchmarkTranslate(b *testing.B) {
	in := manyRoutes(5000)
	b.ReportAllocs()
	for b.Loop() {
		if r := Translate(in); len(r.Tables) != 1000 {
			b.Fatalf("%d tables", len(r.Tables))
		}
	}
}
