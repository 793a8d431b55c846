package controlplane

import (
	"context"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/gatewayapi"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// writeStatus writes the status of one object. edit puts our part into a copy
// and reports whether that changes anything; it gets the object as watched
// first, and as it is now if somebody else has written meanwhile.
func (w *writer) writeStatus(ctx context.Context, kind taskKind, seen client.Object, edit func(client.Object) bool) error {
	next := seen.DeepCopyObject().(client.Object) //nolint:errcheck // a deep copy has its own type
	if !edit(next) {
		return nil
	}
	err := w.client.Status().Update(ctx, next)
	if apierrors.IsConflict(err) {
		if err = w.client.Get(ctx, client.ObjectKeyFromObject(seen), next); err == nil && edit(next) {
			err = w.client.Status().Update(ctx, next)
		}
	}
	if err == nil {
		w.wrote(kind)
	}
	return client.IgnoreNotFound(err)
}

func (w *writer) writeRoute(ctx context.Context, o *outcome, id routeID) error {
	want, ok := o.Routes[id]
	if !ok || o.routes[id] == nil {
		return nil
	}
	return w.writeStatus(ctx, taskRoute, o.routes[id], func(route client.Object) bool {
		merged, changed := gatewayapi.MergeParents(parentsOf(route), want, metav1.NewTime(w.now()))
		switch r := route.(type) {
		case *gatewayv1.HTTPRoute:
			r.Status.Parents = merged
		case *gatewayv1.GRPCRoute:
			r.Status.Parents = merged
		}
		return changed
	})
}

func (w *writer) writeGateway(ctx context.Context, o *outcome, key mesh.ProxyKey) error {
	want, ok := o.Gateways[key]
	if !ok || o.gateways[key] == nil {
		return nil
	}
	want = withBeenReady(o, key, want)
	return w.writeStatus(ctx, taskGateway, o.gateways[key], func(object client.Object) bool {
		gw, ok := object.(*gatewayv1.Gateway)
		if !ok || gw.UID != o.gateways[key].UID {
			return false
		}
		var changed bool
		gw.Status, changed = gatewayapi.MergeGateway(gw.Status, want, metav1.NewTime(w.now()))
		return changed
	})
}

// withBeenReady adds the mark of a Gateway whose proxy has been ready. It is
// only ever added.
func withBeenReady(o *outcome, key mesh.ProxyKey, status gatewayv1.GatewayStatus) gatewayv1.GatewayStatus {
	if !o.proxies[key].EverReady {
		return status
	}
	mark := metav1.Condition{
		Type: conditionBeenReady, Status: metav1.ConditionTrue, Reason: "Ready",
		Message: "has taken connections: while it is away they are refused, not sent around it",
	}
	if old := meta.FindStatusCondition(o.gateways[key].Status.Conditions, conditionBeenReady); old != nil {
		mark.ObservedGeneration = old.ObservedGeneration
	} else {
		mark.ObservedGeneration = o.gateways[key].Generation
	}
	status.Conditions = append(slices.Clone(status.Conditions), mark)
	return status
}

// writeClass makes our GatewayClass where it is absent, and writes the status of
// those that name us.
func (w *writer) writeClass(ctx context.Context, o *outcome, name string) (again time.Duration, err error) {
	if o.classes[name] == nil {
		return w.createClass(ctx, name)
	}
	want, ok := o.Classes[name]
	if !ok {
		return 0, nil
	}
	return 0, w.writeStatus(ctx, taskClass, o.classes[name], func(object client.Object) bool {
		class, ok := object.(*gatewayv1.GatewayClass)
		if !ok {
			return false
		}
		var changed bool
		class.Status, changed = gatewayapi.MergeClass(class.Status, want, metav1.NewTime(w.now()))
		return changed
	})
}

func (w *writer) createClass(ctx context.Context, name string) (again time.Duration, err error) {
	if name != mesh.ClassWaypoint {
		return 0, nil
	}
	description := "Waypoint proxies of the Towpath mesh"
	err = w.client.Create(ctx, &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{mesh.LabelManaged: "true"}},
		Spec:       gatewayv1.GatewayClassSpec{ControllerName: mesh.ControllerName, Description: &description},
	})
	switch {
	case meta.IsNoMatchError(err):
		return recheckCRDs, nil // Gateway API is not installed
	case apierrors.IsAlreadyExists(err):
		return 0, nil
	case err != nil:
		return 0, err
	}
	w.wrote(taskClass)
	return 0, nil
}
