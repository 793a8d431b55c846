package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func containerdProcess(n node, bin string) process {
	return process{
		name: n.containerd(), node: &n,
		argv: []string{bin, "--config=" + n.config("containerd.toml"), "--log-level=warn"},
		// The shim is looked for on the path; it lies next to containerd.
		env: []string{"PATH=" + filepath.Dir(bin) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

func kubeletProcess(n node, bin string) process {
	return process{name: n.kubelet(), node: &n, argv: []string{bin,
		"--v=1",
		"--config=" + n.config("kubelet.yaml"),
		"--kubeconfig=" + n.config("kubelet.kubeconfig"),
		"--root-dir=/var/lib/kubelet",
		"--hostname-override=" + n.Name,
		"--node-ip=" + n.IP.String(),
	}}
}

func kubeProxyProcess(n node, bin string) process {
	return process{name: n.kubeProxy(), node: &n, argv: []string{bin,
		"--v=1", "--config=" + n.config("kube-proxy.yaml"),
	}}
}

// startHolder starts the process that owns the node's namespaces, and returns
// when its mounts are made.
func (c *Cluster) startHolder(ctx context.Context, n node, helper string) error {
	if _, ok := c.files.running(n.holder()); ok {
		return nil
	}
	if err := os.RemoveAll(holderReady(n.dir)); err != nil {
		return err
	}
	p := process{name: n.holder(), argv: holderArgs(helper, n)}
	if err := c.files.start(p); err != nil {
		return err
	}
	return c.files.poll(ctx, p.name, 10*time.Second, func(context.Context) error {
		if !exists(holderReady(n.dir)) {
			return errors.New("mounts are not made")
		}
		return nil
	})
}

// startRuntime makes a node able to run pods: namespaces, containerd, and the
// image, in the archive pause, that every pod needs.
func (c *Cluster) startRuntime(ctx context.Context, n node, b *builder, pause string) error {
	helper, err := b.need(ctx, "cluster")
	if err != nil {
		return err
	}
	if err := c.startHolder(ctx, n, helper); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, n, b); err != nil {
		return err
	}
	return c.importArchive(ctx, n, pause)
}

// startNode starts the processes that talk to the API server. It must answer by
// then: a kubelet that has met a dead one waits seconds before it tries again.
func (c *Cluster) startNode(ctx context.Context, n node, b *builder) error {
	for _, step := range []struct {
		tool string
		spec func(node, string) process
	}{{"kubelet", kubeletProcess}, {"kube-proxy", kubeProxyProcess}} {
		bin, err := b.need(ctx, step.tool)
		if err != nil {
			return err
		}
		if err := c.files.start(step.spec(n, bin)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startContainerd(ctx context.Context, n node, b *builder) error {
	bin, err := b.need(ctx, "containerd")
	if err != nil {
		return err
	}
	for _, name := range []string{"containerd-shim-runc-v2", "ctr"} {
		if c.ctr, err = b.need(ctx, name); err != nil {
			return err
		}
	}
	if err := c.files.start(containerdProcess(n, bin)); err != nil {
		return err
	}
	return c.files.poll(ctx, n.containerd(), 30*time.Second, func(ctx context.Context) error {
		return c.runOnNode(ctx, n, c.ctr, "version")
	})
}

// runOnNode runs a short command in the namespaces of a node.
func (c *Cluster) runOnNode(ctx context.Context, n node, argv ...string) error {
	holder, ok := c.files.running(n.holder())
	if !ok {
		return fmt.Errorf("node %s has no holder process", n.Name)
	}
	return run(ctx, append(enterArgs(holder.PID), argv...)...)
}

// nodeStatus is the part of a Node object that is looked at.
type nodeStatus struct {
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type    string `json:"type"`
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"conditions"`
	} `json:"status"`
}

// ready returns nil if the node's Ready condition is true.
func (s nodeStatus) ready() error {
	for _, condition := range s.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status == "True" {
			return nil
		}
		return errors.New(condition.Message)
	}
	return errors.New("no Ready condition")
}

// checkNode returns nil if the node is registered and ready. It also writes the
// pod range into the Node: no controller hands out ranges here, because the CNI
// configuration has to agree with them.
func (c *Cluster) checkNode(ctx context.Context, api *apiClient, n node) error {
	var status nodeStatus
	path := "/api/v1/nodes/" + n.Name
	if err := api.get(ctx, path, &status); err != nil {
		return err
	}
	if status.Spec.PodCIDR == "" {
		cidr := n.PodCIDR.String()
		change := map[string]any{"spec": map[string]any{"podCIDR": cidr, "podCIDRs": []string{cidr}}}
		if err := api.patch(ctx, path, change); err != nil {
			return err
		}
	}
	return status.ready()
}
