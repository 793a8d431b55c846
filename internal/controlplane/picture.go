package controlplane

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/gatewayapi"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// picture is what the translation depends on, as last seen. It belongs to the
// loop. The objects are the informers': they are never changed.
type picture struct {
	classes    map[string]*gatewayv1.GatewayClass
	gateways   map[mesh.ProxyKey]*gatewayv1.Gateway
	routes     map[gatewayapi.RouteID]client.Object // *HTTPRoute or *GRPCRoute
	services   map[mesh.ServiceKey]*corev1.Service
	namespaces map[string]*corev1.Namespace

	// readySlices are the EndpointSlices of each Service that have a ready
	// endpoint, and sliceOwner is the Service of each of them.
	readySlices map[mesh.ServiceKey]map[string]bool
	sliceOwner  map[mesh.SliceKey]mesh.ServiceKey
	// proxyPods are the pods of Gateways, and everReady the Gateways whose proxy
	// has been ready while this process looked.
	proxyPods map[mesh.ProxyKey]map[types.UID]*corev1.Pod
	everReady map[mesh.ProxyKey]types.UID
}

func newPicture() *picture {
	return &picture{
		classes:     map[string]*gatewayv1.GatewayClass{},
		gateways:    map[mesh.ProxyKey]*gatewayv1.Gateway{},
		routes:      map[gatewayapi.RouteID]client.Object{},
		services:    map[mesh.ServiceKey]*corev1.Service{},
		namespaces:  map[string]*corev1.Namespace{},
		readySlices: map[mesh.ServiceKey]map[string]bool{},
		sliceOwner:  map[mesh.SliceKey]mesh.ServiceKey{},
		proxyPods:   map[mesh.ProxyKey]map[types.UID]*corev1.Pod{},
		everReady:   map[mesh.ProxyKey]types.UID{},
	}
}

// take puts an event into the picture and reports whether the translation may
// come out differently now.
func (p *picture) take(e event) bool {
	switch o := e.object.(type) {
	case *gatewayv1.GatewayClass:
		keep(p.classes, o.Name, o, e.removed)
	case *gatewayv1.Gateway:
		keep(p.gateways, mesh.ProxyKey{Namespace: o.Namespace, Name: o.Name}, o, e.removed)
	case *gatewayv1.HTTPRoute:
		keep(p.routes, gatewayapi.RouteID{Kind: routing.KindHTTPRoute, Namespace: o.Namespace, Name: o.Name}, client.Object(o), e.removed)
	case *gatewayv1.GRPCRoute:
		keep(p.routes, gatewayapi.RouteID{Kind: routing.KindGRPCRoute, Namespace: o.Namespace, Name: o.Name}, client.Object(o), e.removed)
	case *corev1.Service:
		return p.takeService(o, e.removed)
	case *corev1.Namespace:
		old := p.namespaces[o.Name]
		keep(p.namespaces, o.Name, o, e.removed)
		return e.removed || old == nil || !maps.Equal(old.Labels, o.Labels)
	case *discoveryv1.EndpointSlice:
		return p.takeSlice(o, e.removed)
	case *corev1.Pod:
		return p.takePod(o, e.removed)
	default:
		return false
	}
	return true
}

func keep[K comparable, V any](m map[K]V, key K, value V, removed bool) {
	if removed {
		delete(m, key)
		return
	}
	m[key] = value
}

func (p *picture) takeService(s *corev1.Service, removed bool) bool {
	key := mesh.ServiceKey{Namespace: s.Namespace, Name: s.Name}
	old := p.services[key]
	keep(p.services, key, s, removed)
	return removed || old == nil || !maps.Equal(old.Labels, s.Labels) ||
		!equality.Semantic.DeepEqual(old.Spec, s.Spec) || !equality.Semantic.DeepEqual(old.Status, s.Status)
}

// takeSlice reports true when a Gateway's proxy becomes ready or stops to be.
func (p *picture) takeSlice(s *discoveryv1.EndpointSlice, removed bool) bool {
	slice := mesh.SliceKey{Namespace: s.Namespace, Name: s.Name}
	owner := mesh.ServiceKey{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
	before := p.isReady(owner)
	if old, ok := p.sliceOwner[slice]; ok {
		before = before || p.isReady(old)
		delete(p.readySlices[old], s.Name)
		if len(p.readySlices[old]) == 0 {
			delete(p.readySlices, old)
		}
		delete(p.sliceOwner, slice)
	}
	if !removed && hasReady(s) {
		p.sliceOwner[slice] = owner
		if p.readySlices[owner] == nil {
			p.readySlices[owner] = map[string]bool{}
		}
		p.readySlices[owner][s.Name] = true
	}
	return before != p.isReady(owner) && p.gateways[mesh.ProxyKey(owner)] != nil
}

func (p *picture) isReady(key mesh.ServiceKey) bool { return len(p.readySlices[key]) > 0 }

func hasReady(s *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
		return e.Conditions.Ready == nil || *e.Conditions.Ready
	})
}

// takePod reports true for pods whose state is told elsewhere: proxies, in the
// status of their Gateways, and pods with a label of their own, which may be
// wrong.
func (p *picture) takePod(o *corev1.Pod, removed bool) bool {
	name := o.Labels[mesh.LabelGatewayName]
	if name == "" {
		return o.Labels[mesh.LabelMesh] != ""
	}
	key := mesh.ProxyKey{Namespace: o.Namespace, Name: name}
	if p.proxyPods[key] == nil {
		p.proxyPods[key] = map[types.UID]*corev1.Pod{}
	}
	keep(p.proxyPods[key], o.UID, o, removed)
	if len(p.proxyPods[key]) == 0 {
		delete(p.proxyPods, key)
	}
	return true
}

// inputs are the picture in the form that the translation takes.
func (p *picture) inputs() gatewayapi.Inputs {
	in := gatewayapi.Inputs{
		GatewayClasses: slices.Collect(maps.Values(p.classes)),
		Gateways:       slices.Collect(maps.Values(p.gateways)),
		Services:       slices.Collect(maps.Values(p.services)),
		Namespaces:     slices.Collect(maps.Values(p.namespaces)),
		Proxies:        map[mesh.ProxyKey]gatewayapi.ProxyState{},
	}
	for _, r := range p.routes {
		switch r := r.(type) {
		case *gatewayv1.HTTPRoute:
			in.HTTPRoutes = append(in.HTTPRoutes, r)
		case *gatewayv1.GRPCRoute:
			in.GRPCRoutes = append(in.GRPCRoutes, r)
		}
	}
	for key, gw := range p.gateways {
		in.Proxies[key] = p.proxyState(key, gw)
	}
	for key := range p.everReady {
		if p.gateways[key] == nil {
			delete(p.everReady, key)
		}
	}
	return in
}

// conditionBeenReady in a Gateway's status says that its proxy has been ready
// once. It is never taken back, and outlives every controller: it decides
// whether connections are refused while the proxy is away, or go around it.
const conditionBeenReady = "towpath.io/HasBeenReady"

// proxyState tells how the proxy of a Gateway is doing.
func (p *picture) proxyState(key mesh.ProxyKey, gw *gatewayv1.Gateway) gatewayapi.ProxyState {
	service := mesh.ServiceKey(key)
	ready := p.isReady(service)
	if ready {
		p.everReady[key] = gw.UID
	}
	s := gatewayapi.ProxyState{
		Ready: ready,
		EverReady: p.everReady[key] == gw.UID && gw.UID != "" || ready ||
			meta.IsStatusConditionTrue(gw.Status.Conditions, conditionBeenReady),
	}
	if svc := p.services[service]; svc != nil {
		s.Addresses = addressesOf(svc)
	}
	if !ready {
		s.Problem = podProblem(p.proxyPods[key])
	}
	return s
}

func addressesOf(s *corev1.Service) []string {
	var out []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IP != "" {
			out = append(out, i.IP)
		} else if i.Hostname != "" {
			out = append(out, i.Hostname)
		}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return out
	}
	for _, ip := range s.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			out = append(out, ip)
		}
	}
	return out
}

// podProblem says why none of the pods is ready, if one of them knows: that it
// cannot be scheduled, or that its container does not start.
func podProblem(pods map[types.UID]*corev1.Pod) string {
	problems := map[string]bool{}
	for _, pod := range pods {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				problems[fmt.Sprintf("its pod is not scheduled: %s: %s", c.Reason, c.Message)] = true
			}
		}
		for _, c := range pod.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				problems[fmt.Sprintf("its container does not start: %s: %s", w.Reason, w.Message)] = true
			}
		}
	}
	if len(problems) == 0 {
		return ""
	}
	return slices.Min(slices.Collect(maps.Keys(problems)))
}
