package controlplane

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
	"github.com/towpath-mesh/towpath/internal/provision"
)

// annotationUnwanted on a Gateway that the controller made says since when
// nothing has needed it (RFC 3339).
const annotationUnwanted = "towpath.io/unwanted-since"

// rootKey is the key of the root certificates in their ConfigMap.
const rootKey = "root-cert.pem"

// revision tells one wanted state of a Gateway from another.
type revision struct {
	uid        types.UID
	generation int64
}

func revisionOf(gw *gatewayv1.Gateway) revision {
	return revision{uid: gw.UID, generation: gw.Generation}
}

// writeWaypoint makes the Gateway of a waypoint that is wanted, removes that of
// one that has been unwanted for the grace period, and applies what runs the
// proxy of one that is accepted.
func (w *writer) writeWaypoint(ctx context.Context, o *outcome, key mesh.ProxyKey) (again time.Duration, err error) {
	gw := o.gateways[key]
	for _, wanted := range o.Wanted {
		if wanted.Key != key {
			continue
		}
		if gw == nil {
			return 0, w.createWaypoint(ctx, key, wanted.Reason)
		}
		if gw.Annotations[annotationUnwanted] != "" {
			if err := w.annotate(ctx, gw, nil); err != nil {
				return 0, err
			}
		}
	}
	for _, obsolete := range o.Obsolete {
		if obsolete == key {
			again, err = w.expire(ctx, gw)
			if err != nil {
				return 0, err
			}
		}
	}
	for _, accepted := range o.Provision {
		if accepted.Namespace == key.Namespace && accepted.Name == key.Name {
			return again, w.provide(ctx, accepted)
		}
	}
	return again, nil
}

func (w *writer) createWaypoint(ctx context.Context, key mesh.ProxyKey, reason string) error {
	gw := provision.Gateway(key, reason)
	err := w.client.Create(ctx, gw)
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("making waypoint %s: %w", key, err)
	}
	w.wrote(taskWaypoint)
	w.log.InfoContext(ctx, "waypoint made", "gateway", key.String(), "reason", reason)
	w.recorder.Eventf(gw, nil, corev1.EventTypeNormal, "WaypointMade", "Make", "made for %s", reason)
	return nil
}

// expire removes a waypoint that nobody wants once the grace period is over. The
// time is kept in the Gateway, so that it goes on when the leader changes.
func (w *writer) expire(ctx context.Context, gw *gatewayv1.Gateway) (again time.Duration, err error) {
	now := w.now()
	since, err := time.Parse(time.RFC3339, gw.Annotations[annotationUnwanted])
	if err != nil {
		stamp := now.UTC().Format(time.RFC3339)
		return w.grace, w.annotate(ctx, gw, &stamp)
	}
	if left := since.Add(w.grace).Sub(now); left > 0 {
		return left, nil
	}
	// Only what was looked at: a Gateway changed meanwhile is looked at again.
	err = w.client.Delete(ctx, gw, client.Preconditions{UID: &gw.UID, ResourceVersion: &gw.ResourceVersion},
		client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	w.wrote(taskWaypoint)
	w.log.InfoContext(ctx, "waypoint removed: nothing needs it", "gateway", gw.Namespace+"/"+gw.Name, "unwanted_since", since)
	return 0, nil
}

// annotate sets the mark of an unwanted waypoint, or with nil takes it away.
func (w *writer) annotate(ctx context.Context, gw *gatewayv1.Gateway, stamp *string) error {
	next := gw.DeepCopy()
	if stamp == nil {
		delete(next.Annotations, annotationUnwanted)
	} else {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, annotationUnwanted, *stamp)
	}
	err := w.client.Patch(ctx, next, client.MergeFrom(gw))
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	w.wrote(taskWaypoint)
	return nil
}

// provide applies what runs the proxy of a Gateway. What the user has added to
// those objects stays.
func (w *writer) provide(ctx context.Context, gw *gatewayv1.Gateway) error {
	objects := provision.Waypoint(gw, w.provision)
	for _, o := range []client.Object{objects.ServiceAccount, objects.Service, objects.Deployment, objects.Budget} {
		if err := w.apply(ctx, o); err != nil {
			return fmt.Errorf("proxy of Gateway %s/%s: %w", gw.Namespace, gw.Name, err)
		}
	}
	w.wrote(taskWaypoint)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.provided != nil {
		w.provided[mesh.ProxyKey{Namespace: gw.Namespace, Name: gw.Name}] = revisionOf(gw)
	}
	return nil
}

// apply is a server-side apply of an object that carries its kind. Fields that
// are not set in it are left to others.
func (w *writer) apply(ctx context.Context, o client.Object) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err
	}
	delete(fields, "status")
	prune(fields)
	u := &unstructured.Unstructured{Object: fields}
	if err := w.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("applying %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// prune takes out nulls, which would claim a field just to empty it.
func prune(fields map[string]any) {
	for k, v := range fields {
		switch v := v.(type) {
		case nil:
			delete(fields, k)
		case map[string]any:
			prune(v)
		case []any:
			for _, item := range v {
				if m, ok := item.(map[string]any); ok {
					prune(m)
				}
			}
		}
	}
}

// writeRoots puts a copy of the root certificates into a namespace that has
// proxies, and takes ours out of one that has none any more.
func (w *writer) writeRoots(ctx context.Context, o *outcome, namespace string) error {
	if !w.rootNamespaces(o)[namespace] {
		return w.removeRoots(ctx, namespace)
	}
	err := w.apply(ctx, &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: provision.RootConfigMap,
			Labels: map[string]string{mesh.LabelManaged: "true"},
		},
		Data: map[string]string{rootKey: string(w.bundle().Marshal())},
	})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the namespace is going
	}
	if err == nil {
		w.wrote(taskRoots)
	}
	return err
}

func (w *writer) removeRoots(ctx context.Context, namespace string) error {
	var have corev1.ConfigMap
	if err := w.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: provision.RootConfigMap}, &have); err != nil {
		return client.IgnoreNotFound(err)
	}
	if have.Labels[mesh.LabelManaged] == "" {
		return nil
	}
	if err := w.client.Delete(ctx, &have, client.Preconditions{UID: &have.UID}); err != nil {
		return client.IgnoreNotFound(err)
	}
	w.wrote(taskRoots)
	return nil
}

var gatewayGroupVersion = schema.GroupVersion(gatewayv1.GroupVersion)

// kindsWithProblems are the kinds that problems speak of.
var kindsWithProblems = map[string]schema.GroupVersion{
	"Namespace": corev1.SchemeGroupVersion,
	"Pod":       corev1.SchemeGroupVersion,
	"Service":   corev1.SchemeGroupVersion,
	"Gateway":   gatewayGroupVersion,
	"HTTPRoute": gatewayGroupVersion,
	"GRPCRoute": gatewayGroupVersion,
}

// tell makes a Kubernetes event of a problem. kubectl describe finds events by
// the object's UID.
func (w *writer) tell(ctx context.Context, p problem.Problem) error {
	gv, ok := kindsWithProblems[p.Kind]
	if !ok {
		w.log.WarnContext(ctx, "problem with a kind that gets no events", "problem", p.String())
		return nil
	}
	object := metadataOf(gv.WithKind(p.Kind))
	if err := w.client.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, object); err != nil {
		return client.IgnoreNotFound(err)
	}
	object.SetGroupVersionKind(gv.WithKind(p.Kind))
	w.recorder.Eventf(object, nil, corev1.EventTypeWarning, p.Reason, "Check", "%s: %s", p.Field, p.Message)
	return nil
}
