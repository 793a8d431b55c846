package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
	"github.com/towpath-mesh/towpath/ztunnel/redirect"
)

// PodRef says which pod is enrolled.
type PodRef struct {
	ID             mesh.WorkloadID
	Namespace      string
	Name           string
	ServiceAccount string
	// Addresses are those kubelet probes it at.
	Addresses []netip.Addr
}

// HolderOptions configures a Holder.
type HolderOptions struct {
	// Socket is the path of the unix socket where ztunnel fetches pods.
	Socket string
	// UIDs of ztunnel, besides root.
	UIDs []uint32
	// Node is the namespace where kubelet runs; nil leaves probes alone. The
	// caller closes it after Close.
	Node *netns.NS
	// Proc is where a writable proc file system is mounted, "" for "/proc".
	Proc string
	Log  *slog.Logger
}

// Holder keeps the enrolled pods of a node: their namespaces, listening sockets
// and rules. Its methods are safe for concurrent use; those for one pod wait
// for each other.
type Holder struct {
	opt    HolderOptions
	kernel redirect.Kernel
	server *handoff.Server

	mu     sync.Mutex
	pods   map[mesh.WorkloadID]*heldPod
	open   map[mesh.WorkloadID]*netns.NS // of pods
	status map[mesh.WorkloadID]PodStatus

	probes  sync.Mutex // guards the node's set and what follows
	probed  map[mesh.WorkloadID][]netip.Addr
	settled bool // Complete was called
}

// heldPod is one pod and how far it has come. busy is a lock that can be given
// up on; it guards the rest.
type heldPod struct {
	busy chan struct{}

	ns        *netns.NS // nil when nothing is held
	ref       PodRef
	listeners []handoff.Listener // until they are offered
	offered   bool               // the server has the listeners
	captured  bool               // its rules were in place when last looked at
	served    bool               // a ztunnel has taken it
	leaving   time.Time          // since when it is being released, or zero
	repairs   int                // how often its rules were not as they were left
}

// PodStatus is what a Holder tells of a pod.
type PodStatus struct {
	PodRef
	NetNS    uint64 `json:"netns"`
	Captured bool   `json:"captured"`
	Served   bool   `json:"served"`
	Repairs  int    `json:"repairs"`
}

// Reasons of an EnrolError.
const (
	ReasonNamespace = "NetworkNamespaceNotFound"
	ReasonListen    = "CannotListen"
	ReasonProxy     = "ProxyNotReady"
	ReasonRedirect  = "CannotRedirect"
)

// EnrolError says at which step an enrolment failed.
type EnrolError struct {
	Reason string // one of the Reason constants
	// Captured: the pod's traffic is redirected nevertheless, and waits.
	Captured bool
	Err      error
}

func (e *EnrolError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *EnrolError) Unwrap() error { return e.Err }

// NewHolder returns a Holder without pods.
func NewHolder(o HolderOptions) *Holder {
	h := &Holder{
		opt: o, kernel: redirect.Kernel{Proc: o.Proc},
		pods:   map[mesh.WorkloadID]*heldPod{},
		open:   map[mesh.WorkloadID]*netns.NS{},
		status: map[mesh.WorkloadID]PodStatus{},
		probed: map[mesh.WorkloadID][]netip.Addr{},
	}
	h.server = handoff.NewServer(handoff.ServerOptions{Path: o.Socket, UIDs: o.UIDs, Sockets: h.sockets, Log: o.Log})
	return h
}

// Run serves ztunnels until ctx ends.
func (h *Holder) Run(ctx context.Context) error { return h.server.Run(ctx) }

// Complete says that all pods that were enrolled before the start have been
// given to Enrol: a ztunnel may now forget those that it was not told of. Until
// then none is ready, and what an earlier agent did for probes stays.
func (h *Holder) Complete() {
	h.probes.Lock()
	h.settled = true
	h.probes.Unlock()
	h.server.Complete()
}

// Close closes what is held, after Run and all other calls have returned. Rules
// stay in the pods: they belong to the pods, and the next agent takes them over.
func (h *Holder) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.server.Close()
	for id, p := range h.pods {
		if p.ns != nil {
			closeListeners(p.listeners)
			err = errors.Join(err, p.ns.Close())
		}
		delete(h.pods, id)
	}
	return err
}

// Status lists the pods that are held, by namespace and name.
func (h *Holder) Status() []PodStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.status), func(a, b PodStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}

// Holds reports whether anything of the pod is held.
func (h *Holder) Holds(id mesh.WorkloadID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.status[id]
	return ok
}

// lock returns the pod, for the caller alone until unlock.
func (h *Holder) lock(ctx context.Context, id mesh.WorkloadID) (*heldPod, error) {
	for {
		h.mu.Lock()
		p := h.pods[id]
		if p == nil {
			p = &heldPod{busy: make(chan struct{}, 1)}
			h.pods[id] = p
		}
		h.mu.Unlock()
		select {
		case p.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		h.mu.Lock()
		current := h.pods[id] == p
		h.mu.Unlock()
		if current {
			return p, nil
		}
		<-p.busy // dropped while we waited
	}
}

// unlock publishes the pod's status, and drops a pod of which nothing is held
// any more.
func (h *Holder) unlock(id mesh.WorkloadID, p *heldPod) {
	h.mu.Lock()
	if p.ns == nil {
		delete(h.pods, id)
		delete(h.status, id)
	} else {
		h.status[id] = PodStatus{
			PodRef: p.ref, NetNS: p.ns.Inode(),
			Captured: p.captured, Served: p.served, Repairs: p.repairs,
		}
	}
	h.mu.Unlock()
	<-p.busy
}

// sockets is the server's SocketMaker. It does not wait for the pod's lock:
// that may be held by an Enrol which waits for the very ztunnel that asks.
func (h *Holder) sockets(id mesh.WorkloadID, family handoff.Family, count int) ([]int, error) {
	h.mu.Lock()
	ns := h.open[id]
	h.mu.Unlock()
	if ns == nil {
		return nil, handoff.ErrUnknownPod
	}
	return connectors(ns, family, count)
}
