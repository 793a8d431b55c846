package towctl

import (
	"context"

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
	for _, d := range sets.Items {
		comp := Component{Name: d.Name, Image: d.Spec.Template.Spec.Containers[0].Image, Desired: d.Status.DesiredNumberScheduled}
		if d.Status.ObservedGeneration >= d.Generation {
			comp.Ready, comp.Updated = d.Status.NumberReady, d.Status.UpdatedNumberScheduled
		}
		out = append(out, comp)
	}
	return out, nil
}
