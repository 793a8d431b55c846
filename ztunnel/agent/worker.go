package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

const (
	// guardInterval is how often rules that are in place are looked at.
	guardInterval = 5 * time.Second
	// enrolPatience is how long one attempt waits for ztunnel to have the pod's
	// certificate; guardPatience the same of a pod whose traffic waits already.
	enrolPatience = 30 * time.Second
	guardPatience = 3 * time.Second

	minRetry = 200 * time.Millisecond
	maxRetry = 30 * time.Second

	reportTimeout = 5 * time.Second
	// repeatReport is how long the controller may take to show what it was
	// told before it is told again.
	repeatReport = 30 * time.Second

	// endPatience bounds the goodbye of a pod that has ended.
	endPatience = 5 * time.Second
)

// reason of a report about a pod that was let go, and of one that is in.
const (
	reasonEnrolled = "Enrolled"
	reasonReleased = "NotEnrolled"
)

// worker keeps one pod as its workload says. It exists while the workload does
// or anything of it is held.
type worker struct {
	agent  *Agent
	id     mesh.WorkloadID
	wake   chan struct{}
	looked chan struct{} // closed after the first attempt

	mu      sync.Mutex
	wl      *mesh.Workload // nil: gone
	settled bool           // wl is what the last set brought
	cancel  context.CancelFunc

	// Owned by run.
	cleared  bool // a pod that is not wanted was searched for old rules
	told     configstream.PodReport
	toldAt   time.Time
	untold   bool // the last report of a release failed
	lastErr  string
	failures int
}

func newWorker(a *Agent, id mesh.WorkloadID) *worker {
	return &worker{agent: a, id: id, wake: make(chan struct{}, 1), looked: make(chan struct{})}
}

// set gives the worker its workload, and wakes it if that is another. What is
// under way for the other is given up.
func (w *worker) set(wl *mesh.Workload) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.settled && w.wl == wl {
		return
	}
	turned := w.agent.wanted(w.wl) != w.agent.wanted(wl) || wl == nil
	w.wl, w.settled = wl, true
	if turned && w.cancel != nil {
		w.cancel()
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// begin returns the workload and a context that ends when it is another.
func (w *worker) begin(ctx context.Context) (*mesh.Workload, context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.cancel = context.WithCancel(ctx)
	return w.wl, ctx
}

func (w *worker) run(ctx context.Context) {
	looked := sync.OnceFunc(func() { close(w.looked) })
	defer looked()
	for ctx.Err() == nil {
		wl, attempt := w.begin(ctx)
		next := w.attempt(attempt, wl, looked)
		w.cancel()
		looked()
		if wl == nil && w.end() {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// end removes the worker unless it has got a workload again.
func (w *worker) end() bool {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wl != nil || w.agent.opt.Holder.Holds(w.id) {
		return false
	}
	delete(w.agent.workers, w.id)
	return true
}

// attempt does what is to be done, and returns when to look again.
func (w *worker) attempt(ctx context.Context, wl *mesh.Workload, looked func()) time.Duration {
	var err error
	again := guardInterval
	switch {
	case wl == nil:
		ctx, cancel := context.WithTimeout(ctx, endPatience)
		err = w.agent.opt.Holder.Forget(ctx, w.id, 0)
		cancel()
	case w.agent.wanted(wl):
		w.cleared = false
		err = w.enrol(ctx, wl, looked)
	case w.agent.opt.Holder.Holds(w.id):
		again, err = w.release(ctx, wl)
	default:
		err = w.clear(ctx, wl)
		again = time.Hour // nothing to guard
	}
	if ctx.Err() != nil {
		return 0
	}
	w.note(wl, err)
	if err == nil {
		w.failures = 0
		return again
	}
	w.failures++
	retry := minRetry << min(w.failures-1, 10)
	var e *EnrolError
	if errors.As(err, &e) && e.Captured {
		return min(retry, guardInterval)
	}
	return min(retry, maxRetry)
}

// note logs an error when it is another than the last one.
func (w *worker) note(wl *mesh.Workload, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == w.lastErr {
		return
	}
	w.lastErr = text
	if err != nil && wl != nil {
		w.agent.opt.Log.Warn("pod is not as it should be", "namespace", wl.Namespace, "pod", wl.Name, "error", err)
	}
}

// enrol takes the pod in or repairs it, and reports. A pod whose containers
// have not started yet is brought by CNI.
func (w *worker) enrol(ctx context.Context, wl *mesh.Workload, looked func()) error {
	a := w.agent
	var ns *netns.NS
	patience, fresh := guardPatience, !a.opt.Holder.Holds(w.id)
	if fresh {
		var err error
		if ns, err = a.opt.Find(w.id); err != nil {
			return w.notFound(ctx, wl, err)
		}
		patience = enrolPatience
	}
	attempt, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	err := a.opt.Holder.Offer(attempt, refOf(wl), ns)
	looked() // the rest is a matter of ztunnel, which waits for all to be offered
	if err == nil {
		err = a.opt.Holder.Enrol(attempt, refOf(wl), nil)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e *EnrolError
	if errors.As(err, &e) {
		a.metrics.failed(e.Reason)
		if e.Captured { // peers keep what they know: its connections wait
			return err
		}
		return errors.Join(err, w.tell(ctx, wl, configstream.PodReport{ID: w.id, Reason: e.Reason, Message: e.Error()}))
	}
	if err == nil && fresh {
		a.metrics.enrolled(time.Since(start))
		a.opt.Log.Info("pod is enrolled", "namespace", wl.Namespace, "pod", wl.Name, "took", time.Since(start).Round(time.Millisecond))
	}
	return errors.Join(err, w.tell(ctx, wl, configstream.PodReport{ID: w.id, Enrolled: true, Reason: reasonEnrolled}))
}

// notFound is quiet about pods that cannot be there yet or any more.
func (w *worker) notFound(ctx context.Context, wl *mesh.Workload, err error) error {
	if len(wl.Addresses) == 0 || wl.Terminating {
		return nil
	}
	w.agent.metrics.failed(ReasonNamespace)
	report := configstream.PodReport{ID: w.id, Reason: ReasonNamespace, Message: err.Error()}
	return errors.Join(err, w.tell(ctx, wl, report))
}

// release does the next step of letting a running pod go: peers are told first.
// It returns when the following one is due.
func (w *worker) release(ctx context.Context, wl *mesh.Workload) (again time.Duration, err error) {
	err = w.tell(ctx, wl, configstream.PodReport{ID: w.id, Reason: reasonReleased})
	if err != nil && !w.untold {
		w.agent.opt.Log.Warn("cannot report that a pod is let go", "namespace", wl.Namespace, "pod", wl.Name, "error", err)
	}
	w.untold = err != nil
	again, err = w.agent.opt.Holder.release(ctx, w.id, w.agent.opt.Release)
	if err == nil && again == 0 {
		w.cleared = true
		w.agent.opt.Log.Info("pod was let go", "namespace", wl.Namespace, "pod", wl.Name)
		again = time.Hour // nothing to guard
	}
	return again, err
}

// clear removes what an earlier agent may have left in a pod that is not
// wanted any more, once.
func (w *worker) clear(ctx context.Context, wl *mesh.Workload) error {
	if w.cleared || len(wl.Addresses) == 0 || !wl.Gateway.IsZero() {
		return nil
	}
	ns, err := w.agent.opt.Find(w.id)
	if err != nil {
		return nil // nothing runs: nothing is in the way
	}
	defer ns.Close()
	if err := w.agent.opt.Holder.Clear(ns); err != nil {
		return err
	}
	w.cleared = true
	if wl.Tunnel != mesh.TunnelHBONE {
		return nil
	}
	return w.tell(ctx, wl, configstream.PodReport{ID: w.id, Reason: reasonReleased})
}

// tell reports to the controller what it does not know yet. The World shows
// whether it does: only an enrolled pod is reached by HBONE.
func (w *worker) tell(ctx context.Context, wl *mesh.Workload, r configstream.PodReport) error {
	shown := r.Enrolled == (wl.Tunnel == mesh.TunnelHBONE)
	if r == w.told && (shown || time.Since(w.toldAt) < repeatReport) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := w.agent.report(ctx, []configstream.PodReport{r}); err != nil {
		return err
	}
	w.told, w.toldAt = r, time.Now()
	return nil
}

func refOf(wl *mesh.Workload) PodRef {
	return PodRef{
		ID: wl.ID, Namespace: wl.Namespace, Name: wl.Name,
		ServiceAccount: wl.ServiceAccount, Addresses: wl.Addresses,
	}
}
