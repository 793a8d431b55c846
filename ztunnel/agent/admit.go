package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/agent/cni"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

const (
	// knowPatience is how long a new pod waits for the controller to have
	// streamed it.
	knowPatience = 2 * time.Second
	// syncPatience is how long a new pod waits for an agent that has just
	// started to hear from the controller at all.
	syncPatience = 10 * time.Second
	// admitPatience is how long a new pod waits to be enrolled; less than the
	// plugin waits for the answer.
	admitPatience = 25 * time.Second
)

// HandleCNI is the cni.Handler: it returns when a new pod may start, or ended
// pod may go.
func (a *Agent) HandleCNI(ctx context.Context, r cni.Request, ns *netns.NS) error {
	if r.Command == cni.Del {
		return a.ended(ctx, r, ns)
	}
	err := a.admit(ctx, r, ns)
	a.metrics.admitted(err)
	return err
}

// ended lets ztunnel say goodbye before the namespace goes. The worker is left
// alone: the pod may be about to get another namespace.
func (a *Agent) ended(ctx context.Context, r cni.Request, ns *netns.NS) error {
	var inode uint64
	if ns != nil {
		inode = ns.Inode()
		_ = ns.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	return a.opt.Holder.Forget(ctx, r.ID, inode)
}

// admit takes over ns.
func (a *Agent) admit(ctx context.Context, r cni.Request, ns *netns.NS) error {
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	if slices.Contains(a.opt.ExcludeNamespaces, r.Namespace) {
		return ns.Close()
	}
	wl, err := a.know(ctx, r)
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	switch {
	case wl == nil && a.enrolsNeighbours(r):
		// Its identity is not known, but others of its namespace are in the
		// mesh: its traffic must not leave unprotected until it is.
		ref := PodRef{ID: r.ID, Namespace: r.Namespace, Name: r.Name, Addresses: r.Addresses}
		return a.opt.Holder.Guard(ctx, ref, ns)
	case !a.wanted(wl):
		return ns.Close()
	}
	ref := refOf(wl)
	if len(ref.Addresses) == 0 {
		ref.Addresses = r.Addresses
	}
	start := time.Now()
	if err := a.opt.Holder.Enrol(ctx, ref, ns); err != nil {
		return err
	}
	a.metrics.enrolled(time.Since(start))
	a.wakeWorker(r.ID) // which reports
	return nil
}

// know returns the workload, or nil if the controller has not streamed it.
func (a *Agent) know(ctx context.Context, r cni.Request) (*mesh.Workload, error) {
	late := time.NewTimer(syncPatience)
	defer late.Stop()
	select {
	case <-a.synced:
	case <-late.C:
		return nil, fmt.Errorf("the node agent has not heard from the controller yet")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	patience := time.NewTimer(knowPatience)
	defer patience.Stop()
	for {
		changed := a.opt.Worlds.Changed()
		if wl, ok := a.opt.Worlds.Load().Workload(r.ID); ok {
			return wl, nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// enrolsNeighbours reports whether any known pod of the namespace is to be in
// the mesh.
func (a *Agent) enrolsNeighbours(r cni.Request) bool {
	for wl := range a.opt.Worlds.Load().Workloads() {
		if wl.Namespace == r.Namespace && a.wanted(wl) {
			return true
		}
	}
	return false
}

func (a *Agent) wakeWorker(id mesh.WorkloadID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if wk := a.workers[id]; wk != nil {
		select {
		case wk.wake <- struct{}{}:
		default:
		}
	}
}
