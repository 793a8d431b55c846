package controlplane

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// event is one change of one object: its new state, or that it is gone.
type event struct {
	object  client.Object
	removed bool
}

// handler turns an informer's calls into events. The channel has no buffer, so a
// call returns only when the loop has taken the event: an informer that says it
// has synced has been seen whole. What waits meanwhile waits in client-go.
type handler struct {
	ctx context.Context
	out chan<- event
}

var _ toolscache.ResourceEventHandler = handler{}

func (h handler) OnAdd(obj any, _ bool) { h.send(obj, false) }

func (h handler) OnUpdate(old, obj any) {
	// A resync tells nothing new.
	if o, ok := old.(client.Object); ok {
		if n, ok := obj.(client.Object); ok && o.GetResourceVersion() == n.GetResourceVersion() && n.GetResourceVersion() != "" {
			return
		}
	}
	h.send(obj, false)
}

func (h handler) OnDelete(obj any) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	h.send(obj, true)
}

func (h handler) send(obj any, removed bool) {
	o, ok := obj.(client.Object)
	if !ok {
		return
	}
	select {
	case h.out <- event{object: o, removed: removed}:
	case <-h.ctx.Done():
	}
}

// trim is the transform of all informers: it drops what nobody here reads, before
// it is kept. At 100,000 pods this is most of the memory.
func trim(in any) (any, error) {
	o, ok := in.(client.Object)
	if !ok {
		return in, nil
	}
	o.SetManagedFields(nil)
	if a := o.GetAnnotations(); a[corev1.LastAppliedConfigAnnotation] != "" {
		delete(a, corev1.LastAppliedConfigAnnotation)
	}
	switch o := o.(type) {
	case *corev1.Pod:
		trimPod(o)
	case *discoveryv1.EndpointSlice:
		for i := range o.Endpoints {
			o.Endpoints[i].Hints = nil
		}
	}
	return o, nil
}

func trimPod(p *corev1.Pod) {
	p.Spec = corev1.PodSpec{
		NodeName:           p.Spec.NodeName,
		ServiceAccountName: p.Spec.ServiceAccountName,
		HostNetwork:        p.Spec.HostNetwork,
	}
	s := p.Status
	p.Status = corev1.PodStatus{
		Phase: s.Phase, Reason: s.Reason, Message: s.Message,
		PodIP: s.PodIP, PodIPs: s.PodIPs, HostIP: s.HostIP,
		Conditions: s.Conditions,
	}
	// Why a proxy does not start is told in its Gateway's status.
	if p.Labels[mesh.LabelGatewayName] != "" {
		p.Status.ContainerStatuses = s.ContainerStatuses
	}
}

// kindOf names an object's kind for metrics and logs: informers hand out objects
// without their TypeMeta.
func kindOf(o client.Object) string {
	switch o := o.(type) {
	case *corev1.Pod:
		return "Pod"
	case *corev1.Namespace:
		return "Namespace"
	case *corev1.Service:
		return "Service"
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice"
	case *gatewayv1.GatewayClass:
		return "GatewayClass"
	case *gatewayv1.Gateway:
		return "Gateway"
	case *gatewayv1.HTTPRoute:
		return "HTTPRoute"
	case *gatewayv1.GRPCRoute:
		return "GRPCRoute"
	case *metav1.PartialObjectMetadata:
		return o.Kind
	default:
		return "unknown"
	}
}
