package towctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/manifests"
)

// gatewayGVR is where Gateways live.
var gatewayGVR = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}

// uninstall takes everything back in the order in which nothing is lost: first
// pods leave the mesh while everything that carries their traffic still runs,
// then the waypoints go, then the nodes are cleaned, then the programs go.
func uninstall(ctx context.Context, o *options, out io.Writer) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	if err := c.releaseNamespaces(ctx, out); err != nil {
		return err
	}
	if err := c.removeWaypoints(ctx, out); err != nil {
		return err
	}
	if err := c.cleanNodes(ctx, o.namespace, out); err != nil {
		return err
	}
	values := manifests.Defaults("")
	values.Namespace = o.namespace
	rendered, err := manifests.Render(values)
	if err != nil {
		return err
	}
	objects, err := parse(rendered)
	if err != nil {
		return err
	}
	order(objects)
	return c.remove(ctx, objects, func(s string) { fmt.Fprintf(out, "removed  %s\n", s) })
}

// releaseNamespaces takes the label off and waits until no pod is captured.
func (c *cluster) releaseNamespaces(ctx context.Context, out io.Writer) error {
	enrolled, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: mesh.LabelMesh + "=" + mesh.MeshEnabled})
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{mesh.LabelMesh: nil}}})
	if err != nil {
		return err
	}
	for _, ns := range enrolled.Items {
		if _, err := c.client.CoreV1().Namespaces().Patch(ctx, ns.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldOwner}); err != nil {
			return err
		}
		fmt.Fprintf(out, "released Namespace %s\n", ns.Name)
	}
	left := 0
	err = poll(ctx, func() (bool, error) {
		pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		left = 0
		for i := range pods.Items {
			if captured(&pods.Items[i]) {
				left++
			}
		}
		return left == 0, nil
	}, "pods are still being released")
	if err != nil {
		return fmt.Errorf("%w: %d left", err, left)
	}
	return nil
}

// captured reports what the node agent said last of the pod.
func captured(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if string(cond.Type) == mesh.ConditionEnrolled {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// removeWaypoints deletes the waypoints that the controller made; those that a
// user made stay, without a program to serve them.
func (c *cluster) removeWaypoints(ctx context.Context, out io.Writer) error {
	list, err := c.dynamic.Resource(gatewayGVR).List(ctx, metav1.ListOptions{LabelSelector: mesh.LabelManaged})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range list.Items {
		g := &list.Items[i]
		r := c.dynamic.Resource(gatewayGVR).Namespace(g.GetNamespace())
		if err := r.Delete(ctx, g.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		fmt.Fprintf(out, "removed  %s\n", describe(g))
	}
	return nil
}

// cleanNodes has every node agent take its rules and its CNI plugin away. A
// node that kept the plugin without an agent could start no pod.
func (c *cluster) cleanNodes(ctx context.Context, namespace string, out io.Writer) error {
	sets := c.client.AppsV1().DaemonSets(namespace)
	ds, err := sets.Get(ctx, agentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	args := ds.Spec.Template.Spec.Containers[0].Args
	if len(args) == 0 || args[0] != "cleanup" {
		ds.Spec.Template.Spec.Containers[0].Args = cleanupArgs(args)
		// The nodes need not wait for each other any more.
		all := intstr.FromString("100%")
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &all}
		if ds, err = sets.Update(ctx, ds, metav1.UpdateOptions{FieldManager: fieldOwner}); err != nil {
			return fmt.Errorf("DaemonSet %s/%s: %w", namespace, agentName, err)
		}
	}
	generation := ds.Generation
	err = poll(ctx, func() (bool, error) {
		ds, err := sets.Get(ctx, agentName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := ds.Status
		done := s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled
		return s.ObservedGeneration >= generation && done, nil
	}, "nodes are still being cleaned")
	if err == nil {
		fmt.Fprintf(out, "cleaned  %d nodes\n", ds.Status.DesiredNumberScheduled)
	}
	return err
}

// cleanupArgs turns the agent's command line into the one that cleans its node:
// what the node looks like stays.
func cleanupArgs(args []string) []string {
	out := []string{"cleanup", "--stay"}
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if slices.Contains([]string{"host-proc", "run-dir", "cni-conf-dir", "cni-bin-dir", "ready-address", "log-level"}, name) {
			out = append(out, a)
		}
	}
	return out
}
