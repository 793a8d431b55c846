package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// takeoverWait is how long a pod that an earlier agent left captured goes on
// with the sockets that ztunnel holds of it, before new ones are opened for
// which there is no ztunnel to serve them.
const takeoverWait = time.Second

// goodbye bounds the time in which ztunnels let a pod go.
const goodbye = 5 * time.Second

var errNoNamespace = errors.New("the pod's network namespace is not known")

// Enrol takes a pod into the mesh, or does what is missing of that: it opens
// the listening sockets, waits until a ztunnel serves them, and only then lets
// rules redirect to them. It is idempotent: called again it repairs. It takes
// over ns; nil stands for the one that is held already. An error is an
// *EnrolError; what was reached stays.
func (h *Holder) Enrol(ctx context.Context, ref PodRef, ns *netns.NS) error {
	p, err := h.offer(ctx, ref, ns)
	if err != nil {
		return err
	}
	defer h.unlock(ref.ID, p)
	err = h.server.Await(ctx, ref.ID)
	p.served = err == nil
	if err != nil {
		return &EnrolError{Reason: ReasonProxy, Captured: p.captured, Err: err}
	}
	if p.captured { // as it was, or offer has seen to it
		return nil
	}
	return h.capture(p)
}

// Offer is the part of Enrol before it waits for a ztunnel.
func (h *Holder) Offer(ctx context.Context, ref PodRef, ns *netns.NS) error {
	p, err := h.offer(ctx, ref, ns)
	if err != nil {
		return err
	}
	h.unlock(ref.ID, p)
	return nil
}

// offer returns the pod locked, unless it fails.
func (h *Holder) offer(ctx context.Context, ref PodRef, ns *netns.NS) (*heldPod, error) {
	p, err := h.adopt(ctx, ref, ns)
	if err != nil {
		return nil, err
	}
	err = h.listen(ctx, p)
	if err == nil && p.captured { // ztunnel or not: nothing may pass by
		err = h.capture(p)
	}
	if err == nil && !p.offered {
		err = h.server.Offer(handoff.Offer{
			ID: ref.ID, Namespace: ref.Namespace, Name: ref.Name, ServiceAccount: ref.ServiceAccount,
			NetNS: p.ns.Inode(), Listeners: p.listeners,
		})
		if err == nil {
			p.listeners, p.offered = nil, true
		}
	}
	if err != nil {
		h.unlock(ref.ID, p)
		return nil, err
	}
	return p, nil
}

// Guard makes a pod fail closed of which it is not known yet whose identity it
// has: its sockets listen, its traffic is redirected to them and waits. Enrol
// completes it, Release undoes it. It takes over ns.
func (h *Holder) Guard(ctx context.Context, ref PodRef, ns *netns.NS) error {
	p, err := h.adopt(ctx, ref, ns)
	if err != nil {
		return err
	}
	defer h.unlock(ref.ID, p)
	if err := h.listen(ctx, p); err != nil {
		return err
	}
	return h.capture(p)
}

// ReleaseTimes say how a running pod is let go.
type ReleaseTimes struct {
	// Drain is how long ztunnel goes on accepting: peers that do not know yet
	// still open tunnels to the pod.
	Drain time.Duration
	// Linger is how long, from the start, captured connections may go on.
	Linger time.Duration
}

// lingerLook is how often it is looked whether captured connections are left.
const lingerLook = time.Second

// Release lets a running pod go: new connections are captured no more; after
// the drain time ztunnel is told; when the captured connections have ended, or
// the time is up, nothing is left in the pod. When ctx ends before, it returns
// ctx's error; Enrol or Release may follow. A pod that is not held is none to
// release.
func (h *Holder) Release(ctx context.Context, id mesh.WorkloadID, times ReleaseTimes) error {
	for {
		again, err := h.release(ctx, id, times)
		if err != nil || again == 0 {
			return err
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// release does the next step of Release and returns when the following one is
// due, 0 when there is none.
func (h *Holder) release(ctx context.Context, id mesh.WorkloadID, times ReleaseTimes) (again time.Duration, err error) {
	p, err := h.lock(ctx, id)
	if err != nil {
		return 0, err
	}
	defer h.unlock(id, p)
	if p.ns == nil {
		return 0, nil
	}
	if p.leaving.IsZero() {
		if err := h.kernel.Drain(p.ns); err != nil {
			return 0, fmt.Errorf("stop the capture: %w", err)
		}
		p.captured, p.leaving = false, time.Now()
		if !p.offered { // guarded only: no ztunnel knows it
			times = ReleaseTimes{}
		}
	}
	since := time.Since(p.leaving)
	if p.offered && since < times.Drain {
		return times.Drain - since, nil
	}
	h.withdraw(ctx, p)
	if since < times.Linger && carries(p.ns) {
		return lingerLook, nil
	}
	if err := h.kernel.Release(p.ns); err != nil {
		return 0, fmt.Errorf("remove the rules: %w", err)
	}
	return 0, h.drop(p)
}

// Forget lets go of a pod that ends. It is called while the namespace still
// lives, so that ztunnel can say goodbye. inode, unless 0, is that of the
// namespace that ends: a pod that has another one by now is kept.
func (h *Holder) Forget(ctx context.Context, id mesh.WorkloadID, inode uint64) error {
	if !h.Holds(id) {
		return nil
	}
	p, err := h.lock(ctx, id)
	if err != nil {
		return err
	}
	defer h.unlock(id, p)
	if p.ns == nil || (inode != 0 && p.ns.Inode() != inode) {
		return nil
	}
	h.withdraw(ctx, p)
	return h.drop(p)
}

// Clear removes the rules of an earlier agent from a namespace that is not held.
func (h *Holder) Clear(ns *netns.NS) error { return h.kernel.Release(ns) }

// adopt locks the pod and settles which namespace is its.
func (h *Holder) adopt(ctx context.Context, ref PodRef, ns *netns.NS) (*heldPod, error) {
	p, err := h.lock(ctx, ref.ID)
	if err != nil {
		if ns != nil {
			_ = ns.Close()
		}
		return nil, &EnrolError{Reason: ReasonProxy, Err: fmt.Errorf("another attempt is under way: %w", err)}
	}
	switch {
	case ns == nil && p.ns == nil:
		h.unlock(ref.ID, p)
		return nil, &EnrolError{Reason: ReasonNamespace, Err: errNoNamespace}
	case ns != nil && p.ns != nil && ns.Inode() == p.ns.Inode():
		_ = ns.Close()
	case ns != nil:
		if p.ns != nil { // the pod's sandbox was made anew
			h.withdraw(ctx, p)
			if err := h.drop(p); err != nil {
				h.opt.Log.Warn("cannot close a pod's former namespace", "pod", ref.Name, "namespace", ref.Namespace, "error", err)
			}
		}
		h.take(p, ref.ID, ns)
	}
	if len(ref.Addresses) == 0 {
		ref.Addresses = p.ref.Addresses
	}
	p.ref, p.leaving = ref, time.Time{}
	return p, nil
}

// take begins to hold a namespace. Rules may be in it: those of an earlier
// agent.
func (h *Holder) take(p *heldPod, id mesh.WorkloadID, ns *netns.NS) {
	*p = heldPod{busy: p.busy, ns: ns}
	p.captured, _ = h.kernel.Captured(ns) // if that cannot be told, capture will
	h.mu.Lock()
	h.open[id] = ns
	h.mu.Unlock()
}

// listen opens the pod's listening sockets, once.
func (h *Holder) listen(ctx context.Context, p *heldPod) error {
	if p.offered || p.listeners != nil {
		return nil
	}
	if p.captured {
		h.awaitProxy(ctx, takeoverWait)
	}
	var err error
	p.listeners, err = listen(p.ns, h.kernel.HasIPv6(p.ns))
	if err != nil {
		return &EnrolError{Reason: ReasonListen, Captured: p.captured, Err: err}
	}
	return nil
}

// awaitProxy waits until a ztunnel is connected, at most that long.
func (h *Holder) awaitProxy(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		n, changed := h.server.Connected()
		if n > 0 {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// capture puts the rules in place, or back. Probes first: one that comes from
// the probe address is as good without rules, while rules without it would
// take probes for strangers.
func (h *Holder) capture(p *heldPod) error {
	if err := h.setProbed(p.ref.ID, p.ref.Addresses); err != nil {
		return &EnrolError{Reason: ReasonRedirect, Captured: p.captured, Err: err}
	}
	changed, err := h.kernel.Capture(p.ns)
	if err != nil {
		return &EnrolError{Reason: ReasonRedirect, Captured: p.captured, Err: err}
	}
	if changed && p.captured {
		p.repairs++
		h.opt.Log.Warn("redirect rules were not intact: repaired", "pod", p.ref.Name, "namespace", p.ref.Namespace)
	}
	p.captured = true
	return nil
}

// withdraw takes the pod back from the ztunnels, also when ctx is about to end.
func (h *Holder) withdraw(ctx context.Context, p *heldPod) {
	closeListeners(p.listeners)
	p.listeners = nil
	if !p.offered {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if err := h.server.Remove(ctx, p.ref.ID); err != nil {
		h.opt.Log.Warn("a ztunnel has not let a pod go", "pod", p.ref.Name, "namespace", p.ref.Namespace, "error", err)
	}
	p.offered, p.served = false, false
}

// drop closes the namespace; nothing is held of the pod then.
func (h *Holder) drop(p *heldPod) error {
	h.mu.Lock()
	delete(h.open, p.ref.ID)
	h.mu.Unlock()
	err := errors.Join(h.setProbed(p.ref.ID, nil), p.ns.Close())
	*p = heldPod{busy: p.busy}
	return err
}

func closeListeners(ls []handoff.Listener) {
	for _, l := range ls {
		_ = unix.Close(l.FD)
	}
}

// setProbed sets the addresses of one pod in the node's rules.
func (h *Holder) setProbed(id mesh.WorkloadID, addrs []netip.Addr) error {
	h.probes.Lock()
	defer h.probes.Unlock()
	before := h.probed[id]
	if slices.Equal(before, addrs) {
		return nil
	}
	h.probed[id] = slices.Clone(addrs)
	err := h.applyProbed()
	if err != nil {
		h.probed[id] = before
	}
	if len(h.probed[id]) == 0 {
		delete(h.probed, id)
	}
	return err
}

// GuardProbes puts the node's rules for probes in place, or back.
func (h *Holder) GuardProbes() error {
	h.probes.Lock()
	defer h.probes.Unlock()
	return h.applyProbed()
}

func (h *Holder) applyProbed() error {
	if h.opt.Node == nil {
		return nil
	}
	var all []netip.Addr
	for _, addrs := range h.probed {
		all = append(all, addrs...)
	}
	if !h.settled {
		// The pods of an earlier agent are not all known yet. No table yet
		// means that there was none.
		earlier, _ := h.kernel.Probed(h.opt.Node)
		all = append(all, earlier...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	if err := h.kernel.SetProbed(h.opt.Node, slices.Compact(all)); err != nil {
		return fmt.Errorf("rules for probes: %w", err)
	}
	return nil
}
