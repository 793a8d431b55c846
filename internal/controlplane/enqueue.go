package controlplane

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/gatewayapi"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
)

// routeID is short for what names a route in a task.
type routeID = gatewayapi.RouteID

// all has everything looked at.
func (w *writer) all() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue == nil || w.latest == nil {
		return
	}
	w.enqueue(w.latest)
	for _, gw := range w.latest.Provision {
		w.queue.Add(task{kind: taskWaypoint, namespace: gw.Namespace, name: gw.Name})
	}
	for ns := range w.rootNamespaces(w.latest) {
		w.queue.Add(task{kind: taskRoots, namespace: ns})
	}
}

// enqueue adds what differs from what is wanted, by the objects as watched. The
// caller holds the lock.
func (w *writer) enqueue(o *outcome) {
	if w.queue == nil {
		return
	}
	now := metav1.NewTime(w.now())
	for id, want := range o.Routes {
		if _, changed := gatewayapi.MergeParents(parentsOf(o.routes[id]), want, now); changed {
			w.queue.Add(task{kind: taskRoute, route: id})
		}
	}
	for key, want := range o.Gateways {
		if _, changed := gatewayapi.MergeGateway(o.gateways[key].Status, withBeenReady(o, key, want), now); changed {
			w.queue.Add(task{kind: taskGateway, namespace: key.Namespace, name: key.Name})
		}
	}
	for name, want := range o.Classes {
		if _, changed := gatewayapi.MergeClass(o.classes[name].Status, want, now); changed {
			w.queue.Add(task{kind: taskClass, name: name})
		}
	}
	if o.classes[mesh.ClassWaypoint] == nil {
		w.queue.Add(task{kind: taskClass, name: mesh.ClassWaypoint})
	}
	w.enqueueWaypoints(o)
	w.enqueueRoots(o)
	w.enqueueProblems(o)
}

// enqueueWaypoints adds the waypoints to be made, kept or removed, and those
// whose Gateway is not the one that was last provided for.
func (w *writer) enqueueWaypoints(o *outcome) {
	for _, wanted := range o.Wanted {
		gw := o.gateways[wanted.Key]
		if gw == nil || gw.Annotations[annotationUnwanted] != "" {
			w.queue.Add(task{kind: taskWaypoint, namespace: wanted.Key.Namespace, name: wanted.Key.Name})
		}
	}
	for _, key := range o.Obsolete {
		w.queue.Add(task{kind: taskWaypoint, namespace: key.Namespace, name: key.Name})
	}
	for _, gw := range o.Provision {
		key := mesh.ProxyKey{Namespace: gw.Namespace, Name: gw.Name}
		if w.provided[key] != revisionOf(gw) {
			w.queue.Add(task{kind: taskWaypoint, namespace: gw.Namespace, name: gw.Name})
		}
	}
}

// rootNamespaces are those that need a copy of the root certificates: where the
// programs of the node run, and where proxies do.
func (w *writer) rootNamespaces(o *outcome) map[string]bool {
	out := map[string]bool{w.namespace: true}
	for _, gw := range o.Provision {
		out[gw.Namespace] = true
	}
	for _, wanted := range o.Wanted {
		out[wanted.Key.Namespace] = true
	}
	return out
}

func (w *writer) enqueueRoots(o *outcome) {
	want := w.rootNamespaces(o)
	for ns := range want {
		if !o.rootNamespaces[ns] {
			w.queue.Add(task{kind: taskRoots, namespace: ns})
		}
	}
	for ns := range o.rootNamespaces {
		if !want[ns] {
			w.queue.Add(task{kind: taskRoots, namespace: ns})
		}
	}
}

// enqueueProblems adds each problem once while it lasts.
func (w *writer) enqueueProblems(o *outcome) {
	lasting := map[problem.Problem]bool{}
	for _, p := range o.problems {
		lasting[p] = true
		if !w.told[p] {
			w.told[p] = true
			w.queue.Add(task{kind: taskProblem, problem: p})
		}
	}
	maps.DeleteFunc(w.told, func(p problem.Problem, _ bool) bool { return !lasting[p] })
}

func parentsOf(o client.Object) []gatewayv1.RouteParentStatus {
	switch r := o.(type) {
	case *gatewayv1.HTTPRoute:
		return r.Status.Parents
	case *gatewayv1.GRPCRoute:
		return r.Status.Parents
	default:
		return nil
	}
}
