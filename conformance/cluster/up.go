package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Up brings a cluster up and returns when it is ready to use. A healthy one is
// left as it is; one that lost processes gets them back; one that lost the
// namespaces of its nodes, as after a reboot, is made anew and empty.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("up: must be run as root, it makes namespaces and mounts")
	}
	files := layout{options.StateDir}
	unlock, err := files.lock(ctx, options.Log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := &Cluster{files: files, nodes: files.nodes(options.Nodes), log: options.Log}
	t := newTimer(options.Log)
	if err := c.up(ctx, t); err != nil {
		return nil, fmt.Errorf("up: %w", err)
	}
	if options.ConformanceImages {
		if err := c.LoadConformanceImages(ctx, options.Log); err != nil {
			return nil, fmt.Errorf("up: %w", err)
		}
		t.step("conformance images loaded")
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context, t *timer) error {
	healthy, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	if healthy {
		t.step("cluster is healthy already")
		return nil
	}
	b, err := newBuilder(c.log, clusterTools)
	if err != nil {
		return err
	}
	b.start(ctx)
	defer b.stop()
	if err := installPackages(ctx, c.log); err != nil {
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return err
	}
	t.step("network, certificates and configuration made")
	if err := c.startAll(ctx, b, t); err != nil {
		return err
	}
	return c.files.writeRecord(record{Nodes: len(c.nodes), Complete: true, Ctr: c.ctr})
}

// inspect tells whether the cluster is healthy. What cannot be mended in place
// it takes down.
func (c *Cluster) inspect(ctx context.Context) (healthy bool, err error) {
	r, err := c.files.readRecord()
	if errors.Is(err, os.ErrNotExist) {
		// Nothing is known; an earlier state directory may have left something.
		return false, c.teardown(ctx, teardownAll)
	}
	if err != nil {
		return false, err
	}
	if !r.Complete || r.Nodes != len(c.nodes) || !c.holdersLive() {
		fmt.Fprintln(c.log, "the earlier cluster is incomplete or different: making it anew")
		return false, c.teardown(ctx, teardownAll)
	}
	c.ctr = r.Ctr
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := c.Check(ctx); err != nil {
		fmt.Fprintf(c.log, "mending the cluster: %v\n", err)
		return false, nil
	}
	return true, nil
}

func (c *Cluster) holdersLive() bool {
	for _, n := range c.nodes {
		if _, ok := c.files.running(n.holder()); !ok {
			return false
		}
	}
	return true
}

// prepare makes all that the processes need. The record comes first, so that
// whatever happens, the next up or down knows that there is something.
func (c *Cluster) prepare(ctx context.Context) error {
	if r, err := c.files.readRecord(); err != nil || !r.Complete {
		if err := c.files.writeRecord(record{Nodes: len(c.nodes)}); err != nil {
			return err
		}
	}
	for _, dir := range []string{"logs", "run", "pki", "config"} {
		if err := os.MkdirAll(c.files.path(dir), 0o755); err != nil {
			return err
		}
	}
	// Made in this order: systemCgroup has processes and thus, in version 2, must
	// be a leaf.
	if err := makeCgroup(systemCgroup); err != nil {
		return err
	}
	if err := c.files.makePKI(c.nodes); err != nil {
		return err
	}
	if err := c.files.writeControlPlaneConfig(); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := c.prepareNode(n); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name, err)
		}
	}
	return makeNetwork(ctx, c.nodes)
}

func (c *Cluster) prepareNode(n node) error {
	if err := makeCgroup(n.podCgroup()); err != nil {
		return err
	}
	if err := c.files.makeNodeDirs(n); err != nil {
		return err
	}
	return c.files.writeNodeConfig(n)
}

// startAll starts every process, waits for the nodes and starts the name server.
func (c *Cluster) startAll(ctx context.Context, b *builder, t *timer) error {
	pause, err := c.makePause(ctx, b)
	if err != nil {
		return err
	}
	defer os.Remove(pause)
	if err := c.startRuntimes(ctx, b, t, pause); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := c.startNode(ctx, n, b); err != nil {
			return err
		}
	}
	t.step("kubelets started")
	if err := c.startDNS(ctx, b, t); err != nil {
		return err
	}
	return c.waitHealthy(ctx, t)
}

// startRuntimes starts the control plane and, meanwhile, containerd on all nodes.
func (c *Cluster) startRuntimes(ctx context.Context, b *builder, t *timer, pause string) error {
	var wait sync.WaitGroup
	var controlErr, nodeErr error
	wait.Go(func() {
		controlErr = c.startControlPlane(ctx, b)
		t.step("control plane answers")
	})
	// One after the other: they compete with the API server for the processors.
	wait.Go(func() {
		for _, n := range c.nodes {
			if nodeErr = c.startRuntime(ctx, n, b, pause); nodeErr != nil {
				return
			}
		}
		t.step("container runtimes answer")
		nodeErr = c.loadDNS(ctx, b)
	})
	wait.Wait()
	return errors.Join(controlErr, nodeErr)
}

// makePause writes the archive of the image that every pod needs.
func (c *Cluster) makePause(ctx context.Context, b *builder) (string, error) {
	bin, err := b.need(ctx, "pause")
	if err != nil {
		return "", err
	}
	return c.writeArchiveFile(BinaryImage(pauseImage, bin))
}

func (c *Cluster) loadDNS(ctx context.Context, b *builder) error {
	bin, err := b.need(ctx, "coredns")
	if err != nil {
		return err
	}
	return c.LoadImage(ctx, BinaryImage(corednsImage, bin))
}

func (c *Cluster) startDNS(ctx context.Context, b *builder, t *timer) error {
	kubectl, err := b.need(ctx, "kubectl")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = run(ctx, kubectl, "--kubeconfig="+c.Kubeconfig(), "apply", "-f", c.files.config("coredns.yaml"))
	t.step("name server created")
	return err
}

func (c *Cluster) waitHealthy(ctx context.Context, t *timer) error {
	const limit = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := c.Check(ctx)
		if err == nil {
			t.step("nodes and name server ready")
			return nil
		}
		sleep(ctx, 100*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("not healthy after %s: %w; logs are in %s", limit, err, c.LogDir())
		}
	}
}

// timer writes lines of progress with the time since the beginning.
type timer struct {
	log   io.Writer
	begin time.Time
}

func newTimer(log io.Writer) *timer { return &timer{log: log, begin: time.Now()} }

func (t *timer) step(what string) {
	fmt.Fprintf(t.log, "%6.1fs %s\n", time.Since(t.begin).Seconds(), what)
}
