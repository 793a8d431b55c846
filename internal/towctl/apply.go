package towctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// fieldOwner is towctl's name in managedFields.
const fieldOwner = "towctl"

// parse reads a stream of YAML documents.
func parse(stream []byte) ([]*unstructured.Unstructured, error) {
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	var objects []*unstructured.Unstructured
	for {
		u := &unstructured.Unstructured{}
		err := dec.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("manifest document %d: %w", len(objects)+1, err)
		}
		if len(u.Object) > 0 {
			objects = append(objects, u)
		}
	}
}

// order sorts by what must exist first.
func order(objects []*unstructured.Unstructured) {
	first := []string{"CustomResourceDefinition", "Namespace", "ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "ConfigMap", "Secret", "Service"}
	rank := func(u *unstructured.Unstructured) int {
		if i := slices.Index(first, u.GetKind()); i >= 0 {
			return i
		}
		return len(first)
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
}

// resource finds the endpoint for an object.
func (c *cluster) resource(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := u.GroupVersionKind()
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		// A CustomResourceDefinition may have come since discovery was read.
		c.mapper.Reset()
		m, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", describe(u), err)
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(m.Resource).Namespace(u.GetNamespace()), nil
	}
	return c.dynamic.Resource(m.Resource), nil
}

// apply brings the objects into the cluster by server-side apply.
func (c *cluster) apply(ctx context.Context, objects []*unstructured.Unstructured, each func(string)) error {
	for _, u := range objects {
		r, err := c.resource(u)
		if err != nil {
			return err
		}
		if _, err := r.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldOwner, Force: true}); err != nil {
			return fmt.Errorf("%s: %w", describe(u), err)
		}
		each(describe(u))
	}
	return nil
}

// remove deletes the objects, last first, and waits until they are gone; not for
// their pods, and so not for the Namespace: a ztunnel that still carries
// established connections drains first, for minutes. What is not there, or is of
// a kind that is not there, is no error.
func (c *cluster) remove(ctx context.Context, objects []*unstructured.Unstructured, each func(string)) error {
	background := metav1.DeletePropagationBackground
	for _, u := range slices.Backward(objects) {
		r, err := c.resource(u)
		if meta.IsNoMatchError(errors.Unwrap(err)) {
			continue
		}
		if err != nil {
			return err
		}
		err = r.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", describe(u), err)
		}
		if u.GetKind() == "Namespace" {
			each(describe(u) + " (goes when ztunnel's last connections have ended)")
			continue
		}
		if err := waitGone(ctx, r, u); err != nil {
			return err
		}
		each(describe(u))
	}
	return nil
}

func waitGone(ctx context.Context, r dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	return poll(ctx, func() (bool, error) {
		_, err := r.Get(ctx, u.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	}, describe(u)+" is still being deleted")
}

// poll calls done every 200 ms until it is, fails, or ctx ends; then the error
// says what was waited for.
func poll(ctx context.Context, done func() (bool, error), waiting string) error {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		ok, err := done()
		if ok || (err != nil && ctx.Err() == nil) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up: %s", waiting)
		case <-t.C:
		}
	}
}

func describe(u *unstructured.Unstructured) string {
	name := u.GetName()
	if ns := u.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return u.GetKind() + " " + name
}
