package towctl

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agentName is the node agent's DaemonSet.
const agentName = "towpath-node-agent"

// Component is one Deployment or DaemonSet of the installation.
type Component struct {
	Name    string `json:"name"`
	Image   string `json:"image"`
	Ready   int32  `json:"ready"`
	Desired int32  `json:"desired"`
	// Updated counts the pods that run the newest template.
	Updated int32 `json:"updated"`
}

// Up reports whether all pods are ready and of the newest template.
func (c Component) Up() bool {
	return c.Desired > 0 && c.Ready >= c.Desired && c.Updated >= c.Desired
}

func (c Component) word() string {
	if c.Up() {
		return "ready"
	}
	return "waiting"
}

// components lists what runs in the namespace that Towpath is installed in, in
// a fixed order. Nothing there is an empty list.
func (c *cluster) components(ctx context.Context, namespace string) ([]Component, error) {
	var out []Component
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=towpath"}
	deployments, err := c.client.AppsV1().Deployments(namespace).List(ctx, selector)
	if err != nil {
		return nil, err
	}
	for _, d := range deployments.Items {
		comp := Component{Name: d.Name, Image: d.Spec.Template.Spec.Containers[0].Image, Desired: 1}
		if d.Spec.Replicas != nil {
			comp.Desired = *d.Spec.Replicas
		}
		if d.Status.ObservedGeneration >= d.Generation {
			comp.Ready, comp.Updated = d.Status.ReadyReplicas, d.Status.UpdatedReplicas
		}
		out = append(out, comp)
	}
	sets, err := c.client.AppsV1().DaemonSets(namespace).List(ctx, selector)
	if err != nil {
		return nil, err
	}
	pods, err := c.client.CoreV1().Pods(namespace).List(ctx, selector)
	if err != nil {
		return nil, err
	}
	for i := range sets.Items {
		out = append(out, daemonSet(&sets.Items[i], pods.Items))
	}
	return out, nil
}

// templateGeneration is the mark that a DaemonSet's pods carry of the template
// they were made from: a label on them, an annotation on the DaemonSet.
const (
	templateGeneration           = "pod-template-generation"
	templateGenerationAnnotation = "deprecated.daemonset.template.generation"
)

// daemonSet counts pods itself: while a pod of the template before drains, the
// DaemonSet's own status counts that one for its node, not the new one.
func daemonSet(d *appsv1.DaemonSet, pods []corev1.Pod) Component {
	c := Component{Name: d.Name, Image: d.Spec.Template.Spec.Containers[0].Image, Desired: d.Status.DesiredNumberScheduled}
	if d.Status.ObservedGeneration < d.Generation {
		return c
	}
	for i := range pods {
		p := &pods[i]
		if !metav1.IsControlledBy(p, d) || p.Labels[templateGeneration] != d.Annotations[templateGenerationAnnotation] || p.DeletionTimestamp != nil {
			continue
		}
		c.Updated++
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
				c.Ready++
			}
		}
	}
	return c
}
