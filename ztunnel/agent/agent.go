package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// settleTime bounds how long, after the first config, the pods that were
// enrolled before may take to be offered to ztunnel before it is told that
// there are no more.
const settleTime = 5 * time.Second

// Options configures an Agent.
type Options struct {
	// Node is the name of the node: workloads of others are left alone.
	Node   string
	Holder *Holder
	Worlds *mesh.Store
	// Find opens the network namespace of a running pod, which the Agent
	// closes. It fails while no process of the pod runs.
	Find func(id mesh.WorkloadID) (*netns.NS, error)
	// ExcludeNamespaces are never taken into the mesh.
	ExcludeNamespaces []string
	// Release says how running pods are let go.
	Release  ReleaseTimes
	Log      *slog.Logger
	Registry prometheus.Registerer // nil keeps the metrics out of sight
}

// Agent makes the pods of the node what the World says they should be.
type Agent struct {
	opt     Options
	report  func(ctx context.Context, pods []configstream.PodReport) error
	metrics *metrics
	synced  chan struct{} // closed when the first config is complete
	once    sync.Once

	mu      sync.Mutex
	workers map[mesh.WorkloadID]*worker
	wg      sync.WaitGroup
}

// New returns an Agent that does nothing until Run.
func New(o Options) *Agent {
	return &Agent{
		opt: o, metrics: newMetrics(o.Registry, o.Holder),
		synced:  make(chan struct{}),
		workers: map[mesh.WorkloadID]*worker{},
		report:  func(context.Context, []configstream.PodReport) error { return nil },
	}
}

// SetReport says how to tell the controller what has become of pods; before
// Run.
func (a *Agent) SetReport(f func(ctx context.Context, pods []configstream.PodReport) error) {
	a.report = f
}

// SetSynced says that Worlds holds every workload of the node.
func (a *Agent) SetSynced() { a.once.Do(func() { close(a.synced) }) }

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	a.wg.Go(func() { a.settle(ctx) })
	a.wg.Go(func() { a.guardProbes(ctx) })
	defer a.wg.Wait()
	for {
		changed := a.opt.Worlds.Changed()
		a.dispatch(ctx, a.opt.Worlds.Load())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// dispatch has a worker for each workload of the node and wakes those whose
// workload has changed.
func (a *Agent) dispatch(ctx context.Context, w *mesh.World) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for wl := range w.Workloads() {
		if !a.ours(wl) {
			continue
		}
		wk := a.workers[wl.ID]
		if wk == nil {
			wk = newWorker(a, wl.ID)
			a.workers[wl.ID] = wk
			a.wg.Go(func() { wk.run(ctx) })
		}
		wk.set(wl)
	}
	for id, wk := range a.workers {
		if _, ok := w.Workload(id); !ok {
			wk.set(nil) // it ends when nothing is held any more
		}
	}
}

func (a *Agent) ours(wl *mesh.Workload) bool {
	return wl.Node == a.opt.Node && !wl.HostNetwork
}

// wanted reports whether the workload is to be in the mesh.
func (a *Agent) wanted(wl *mesh.Workload) bool {
	return wl != nil && wl.Enrolled && !slices.Contains(a.opt.ExcludeNamespaces, wl.Namespace)
}

// settle waits until every workload has been looked at once.
func (a *Agent) settle(ctx context.Context) {
	select {
	case <-a.synced:
	case <-ctx.Done():
		return
	}
	// The World is applied before synced is closed; this brings its workers.
	a.dispatch(ctx, a.opt.Worlds.Load())
	late := time.NewTimer(settleTime)
	defer late.Stop()
	a.mu.Lock()
	var looked []<-chan struct{}
	for _, wk := range a.workers {
		looked = append(looked, wk.looked)
	}
	a.mu.Unlock()
	for _, l := range looked {
		select {
		case <-l:
		case <-late.C:
			late.Reset(0) // for the others as well
		case <-ctx.Done():
			return
		}
	}
	a.opt.Holder.Complete()
}

// guardProbes keeps the node's rules intact.
func (a *Agent) guardProbes(ctx context.Context) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := a.opt.Holder.GuardProbes(); err != nil {
			a.opt.Log.Warn("cannot keep the rules for probes", "error", err)
		}
	}
}
