package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// teardownScope says how much a teardown removes.
type teardownScope int

const (
	// teardownAll also removes the state directory, but for the logs.
	teardownAll teardownScope = iota
	// teardownClean removes the logs too.
	teardownClean
)

// Down stops the cluster and removes its namespaces, mounts, links, cgroups and
// state. The logs stay. It is safe to call twice and after a crash.
func (c *Cluster) Down(ctx context.Context) error { return Down(ctx, c.files.root, c.log) }

// Down is Cluster.Down for whatever is in the state directory, which may be empty
// for DefaultStateDir.
func Down(ctx context.Context, stateDir string, log io.Writer) error {
	return remove(ctx, stateDir, log, teardownAll)
}

// Clean is Down, and also removes the logs.
func Clean(ctx context.Context, stateDir string, log io.Writer) error {
	return remove(ctx, stateDir, log, teardownClean)
}

func remove(ctx context.Context, stateDir string, log io.Writer, scope teardownScope) error {
	options := Options{StateDir: stateDir, Log: log}
	if err := options.complete(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("down: must be run as root")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	files := layout{options.StateDir}
	unlock, err := files.lock(ctx, options.Log)
	if err != nil {
		return err
	}
	defer unlock()
	c := &Cluster{files: files, log: options.Log}
	if err := c.teardown(ctx, scope); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return nil
}

// teardown stops and removes everything. It looks for the largest possible
// cluster, so that it does not depend on what was written down.
func (c *Cluster) teardown(ctx context.Context, scope teardownScope) error {
	all := &Cluster{files: c.files, nodes: c.files.nodes(maxNodes), log: c.log}
	// The record goes last: until then, this was an unfinished cluster.
	if r, err := c.files.readRecord(); err == nil {
		r.Complete = false
		if err := c.files.writeRecord(r); err != nil {
			return err
		}
	}
	if err := all.stopProcesses(); err != nil {
		return err
	}
	if err := removeCgroup(cgroupRoot, 10*time.Second); err != nil {
		return err
	}
	if err := removeNetwork(ctx, all.nodes); err != nil {
		return err
	}
	if err := c.files.removeMachineDirs(); err != nil {
		return err
	}
	return c.files.removeState(scope)
}

// stopProcesses stops, in this order: kubelets, which would restart pods; the
// pods; containerd; what is left of the nodes, shims above all; the control plane.
func (c *Cluster) stopProcesses() error {
	for _, n := range c.nodes {
		if err := c.files.stop(n.kubelet(), time.Second); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := killCgroup(n.podCgroup(), 20*time.Second); err != nil {
			return err
		}
		for _, name := range []string{n.containerd(), n.kubeProxy(), n.holder()} {
			if err := c.files.stop(name, 3*time.Second); err != nil {
				return err
			}
		}
	}
	for i := len(controlPlane) - 1; i >= 0; i-- {
		// The API server's own grace period is longer than anyone wants to wait.
		if err := c.files.stop(controlPlane[i], time.Second); err != nil {
			return err
		}
	}
	return killCgroup(cgroupRoot, 10*time.Second)
}

func (l layout) removeState(scope teardownScope) error {
	if scope == teardownClean {
		return os.RemoveAll(l.root)
	}
	entries, err := os.ReadDir(l.root)
	if err != nil {
		return ignoreGone(err)
	}
	for _, entry := range entries {
		if entry.Name() == "logs" || entry.Name() == "cluster.json" {
			continue
		}
		if err := os.RemoveAll(l.path(entry.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(l.recordFile())
}
