package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
	"github.com/towpath-mesh/towpath/internal/provision"
)

// fieldOwner is the controller's name in managedFields.
const fieldOwner = "towpath-controller"

const (
	writers = 8
	// resync repeats every write that changes nothing if nothing was changed
	// behind our back.
	resync    = 10 * time.Minute
	writeTime = 15 * time.Second
)

// taskKind is what a task is about.
type taskKind string

const (
	taskRoute    taskKind = "route"    // the status of the route in task.route
	taskGateway  taskKind = "gateway"  // the status of a Gateway
	taskClass    taskKind = "class"    // the status of a GatewayClass, and ours itself
	taskWaypoint taskKind = "waypoint" // the Gateway of a waypoint, and what runs its proxy
	taskRoots    taskKind = "roots"    // the root certificates in a namespace
	taskProblem  taskKind = "problem"  // an event about task.problem
)

// task names something to be brought to its wanted state. What that is, is
// looked up when the task is done, so that only the newest state is ever
// written.
type task struct {
	kind            taskKind
	namespace, name string
	route           routeID
	problem         problem.Problem
}

// writer brings Kubernetes to what the loop says, while this replica leads. Each
// write is idempotent, so that two writers at once do no harm.
type writer struct {
	client    client.Client
	recorder  events.EventRecorder
	provision provision.Options
	namespace string
	grace     time.Duration
	bundle    func() *identity.Bundle
	now       func() time.Time
	metrics   *metrics
	log       *slog.Logger

	mu     sync.Mutex
	latest *outcome                                   // nil before the first
	queue  workqueue.TypedRateLimitingInterface[task] // nil while not leading
	// told and provided are what was done in this term.
	told     map[problem.Problem]bool
	provided map[mesh.ProxyKey]revision
}

// take notes what is wanted from now on. It is called by the loop and does not
// block.
func (w *writer) take(o *outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = o
	w.enqueue(o)
}

// touch has one thing looked at again.
func (w *writer) touch(t task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil && w.latest != nil {
		w.queue.Add(t)
	}
}

// touchRoots has the root certificates looked at in all namespaces.
func (w *writer) touchRoots() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue == nil || w.latest == nil {
		return
	}
	for ns := range w.rootNamespaces(w.latest) {
		w.queue.Add(task{kind: taskRoots, namespace: ns})
	}
}

// lead writes until ctx ends.
func (w *writer) lead(ctx context.Context) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[task](50*time.Millisecond, maxRetry))
	w.begin(queue)
	w.metrics.leader.Set(1)
	defer w.metrics.leader.Set(0)

	var workers sync.WaitGroup
	for range writers {
		workers.Go(func() { w.work(ctx, queue) })
	}
	for pause(ctx, resync) {
		w.all()
	}
	w.end()
	queue.ShutDown()
	workers.Wait()
}

func (w *writer) begin(queue workqueue.TypedRateLimitingInterface[task]) {
	w.mu.Lock()
	w.queue, w.told, w.provided = queue, map[problem.Problem]bool{}, map[mesh.ProxyKey]revision{}
	w.mu.Unlock()
	w.all()
}

func (w *writer) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = nil
}

func (w *writer) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[task]) {
	for {
		t, shutdown := queue.Get()
		if shutdown {
			return
		}
		w.once(ctx, queue, t)
		queue.Done(t)
	}
}

func (w *writer) once(ctx context.Context, queue workqueue.TypedRateLimitingInterface[task], t task) {
	if ctx.Err() != nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	again, err := w.do(limited, t)
	switch {
	case err == nil:
		queue.Forget(t)
		if again > 0 {
			queue.AddAfter(t, again)
		}
	case ctx.Err() != nil:
	case apierrors.IsConflict(err):
		w.metrics.writes.WithLabelValues(string(t.kind), "conflict").Inc()
		queue.AddRateLimited(t)
	default:
		w.metrics.writes.WithLabelValues(string(t.kind), "error").Inc()
		w.log.WarnContext(ctx, "write failed: it is tried again", "kind", string(t.kind), "namespace", t.namespace, "name", t.name,
			"route", t.route, "error", err)
		queue.AddRateLimited(t)
	}
}

// do brings one thing to its wanted state. again, if not zero, is when to look
// at it once more.
func (w *writer) do(ctx context.Context, t task) (again time.Duration, err error) {
	w.mu.Lock()
	o := w.latest
	w.mu.Unlock()
	if o == nil {
		return 0, nil
	}
	switch t.kind {
	case taskRoute:
		return 0, w.writeRoute(ctx, o, t.route)
	case taskGateway:
		return 0, w.writeGateway(ctx, o, mesh.ProxyKey{Namespace: t.namespace, Name: t.name})
	case taskClass:
		return w.writeClass(ctx, o, t.name)
	case taskWaypoint:
		return w.writeWaypoint(ctx, o, mesh.ProxyKey{Namespace: t.namespace, Name: t.name})
	case taskRoots:
		return 0, w.writeRoots(ctx, o, t.namespace)
	case taskProblem:
		return 0, w.tell(ctx, t.problem)
	}
	return 0, errors.New("unknown task")
}

// wrote counts a write that happened.
func (w *writer) wrote(kind taskKind) {
	w.metrics.writes.WithLabelValues(string(kind), "ok").Inc()
}
