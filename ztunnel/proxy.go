package ztunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
)

// farewellTimeout bounds how long the removal of a pod waits for the peers of
// its tunnels to hear of it.
const farewellTimeout = time.Second

// ErrDraining is returned by AddPod when another ztunnel has taken over, or
// this one is about to end.
var ErrDraining = errors.New("ztunnel is draining")

// Sockets are the sockets of the pods' network namespaces.
type Sockets interface {
	// DialFrom connects from the pod's namespace; see handoff.Client.
	DialFrom(ctx context.Context, pod mesh.WorkloadID, local, remote netip.AddrPort) (*net.TCPConn, error)
	// OriginalDst returns where a redirected connection wanted to go.
	OriginalDst(c *net.TCPConn) (netip.AddrPort, error)
}

// Identities are the certificates of the pods; *svid.Manager is the real one.
type Identities interface {
	Hold(ctx context.Context, podUID string, id spiffeid.ID) (identity.Source, error)
	Release(podUID string)
}

// Options are what a Proxy needs. All are required unless said otherwise.
type Options struct {
	TrustDomain spiffeid.TrustDomain
	Worlds      *mesh.Store
	Identities  Identities
	Sockets     Sockets
	Tracer      trace.Tracer
	Log         *slog.Logger
	Registry    prometheus.Registerer
	// ConfigSynced is closed once Worlds holds the whole mesh. No pod is taken
	// in before: its connections would go around waypoints.
	ConfigSynced <-chan struct{}
	// OnPods is called when the node agent has handed over all pods. Optional.
	OnPods func()
	// OnDrain is called when another ztunnel has taken over. Optional.
	OnDrain func()
	// Drain is how long the connections of a pod that was removed, or that
	// another ztunnel has taken over, may go on.
	Drain time.Duration
}

// Proxy carries the connections of the pods that are handed to it. It is a
// handoff.Handler.
type Proxy struct {
	trustDomain  spiffeid.TrustDomain
	worlds       *mesh.Store
	identities   Identities
	sockets      Sockets
	tracer       trace.Tracer
	log          *slog.Logger
	metrics      *metrics
	configSynced <-chan struct{}
	onPods       func()
	onDrain      func()
	drainBudget  time.Duration
	dialer       *hbone.Dialer

	work sync.WaitGroup // pods that finish

	mu       sync.Mutex
	draining bool
	pods     map[mesh.WorkloadID]*pod
	leaving  map[*pod]struct{} // removed or drained, with connections left
}

var _ handoff.Handler = (*Proxy)(nil)

// NewProxy returns a Proxy without pods. The caller calls Shutdown.
func NewProxy(o Options) *Proxy {
	return &Proxy{
		trustDomain: o.TrustDomain, worlds: o.Worlds, identities: o.Identities, sockets: o.Sockets,
		tracer: o.Tracer, log: o.Log, metrics: newMetrics(o.Registry),
		configSynced: o.ConfigSynced, onPods: o.OnPods, onDrain: o.OnDrain, drainBudget: o.Drain,
		dialer:  hbone.NewDialer(hbone.DialerOptions{}),
		pods:    map[mesh.WorkloadID]*pod{},
		leaving: map[*pod]struct{}{},
	}
}

// AddPod implements handoff.Handler.
func (z *Proxy) AddPod(ctx context.Context, p *handoff.Pod) error {
	select {
	case <-z.configSynced:
	case <-ctx.Done():
		return fmt.Errorf("pod %s/%s: waiting for the controller: %w", p.Namespace, p.Name, ctx.Err())
	}
	id, err := identity.ForServiceAccount(z.trustDomain, p.Namespace, p.ServiceAccount)
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	src, err := z.identities.Hold(ctx, string(p.ID), id)
	if err != nil {
		z.releaseUnknown(p.ID)
		return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.draining {
		return ErrDraining
	}
	d := z.pods[p.ID]
	if d == nil {
		d = z.newPod(p, id, src)
		z.pods[p.ID] = d
	}
	d.accept(p)
	z.log.Info("pod added", "namespace", p.Namespace, "pod", p.Name, "identity", id.String())
	return nil
}

// releaseUnknown gives up the identity of a pod that could not be added.
func (z *Proxy) releaseUnknown(id mesh.WorkloadID) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.pods[id] == nil {
		z.identities.Release(string(id))
	}
}

// RemovePod implements handoff.Handler.
func (z *Proxy) RemovePod(ctx context.Context, id mesh.WorkloadID) {
	z.mu.Lock()
	d := z.pods[id]
	if d != nil {
		z.leave(d)
	}
	z.mu.Unlock()
	if d != nil {
		ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
		defer cancel()
		d.server.Farewell(ctx)
		z.log.Info("pod removed", "namespace", d.namespace, "pod", d.name)
	}
	z.identities.Release(string(id))
}

// leave makes a pod accept no more; what it has goes on for the budget. The
// caller holds mu.
func (z *Proxy) leave(d *pod) {
	delete(z.pods, d.id)
	z.leaving[d] = struct{}{}
	d.stop()
	d.server.Drain()
	z.dialer.Release(func(key any) bool { return key.(poolKey).Pod == d.id })
	z.work.Go(func() {
		d.finish(z.drainBudget)
		z.mu.Lock()
		defer z.mu.Unlock()
		delete(z.leaving, d)
	})
}

// Synced implements handoff.Handler.
func (z *Proxy) Synced() {
	if z.onPods != nil {
		z.onPods()
	}
}

// Drain implements handoff.Handler. It returns at once.
func (z *Proxy) Drain() {
	z.mu.Lock()
	first := !z.draining
	z.draining = true
	for _, d := range slices.Collect(maps.Values(z.pods)) {
		z.leave(d)
	}
	z.mu.Unlock()
	if first && z.onDrain != nil {
		z.onDrain()
	}
}

// Shutdown drains, cuts what is left after the budget, and returns when nothing
// of the Proxy runs any more.
func (z *Proxy) Shutdown(budget time.Duration) {
	z.Drain()
	t := time.AfterFunc(budget, z.cut)
	z.work.Wait()
	t.Stop()
	z.dialer.Close()
}

func (z *Proxy) cut() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for d := range z.leaving {
		d.cut(errCut)
	}
}

// PodInfo describes a pod, for the config dump.
type PodInfo struct {
	ID        mesh.WorkloadID `json:"id"`
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	Identity  string          `json:"identity"`
	// Leaving pods accept no more.
	Leaving bool `json:"leaving,omitempty"`
}

// Pods returns the pods, sorted by namespace and name.
func (z *Proxy) Pods() []PodInfo {
	z.mu.Lock()
	defer z.mu.Unlock()
	out := make([]PodInfo, 0, len(z.pods)+len(z.leaving))
	add := func(d *pod, leaving bool) {
		out = append(out, PodInfo{ID: d.id, Namespace: d.namespace, Name: d.name, Identity: d.identity.String(), Leaving: leaving})
	}
	for _, d := range z.pods {
		add(d, false)
	}
	for d := range z.leaving {
		add(d, true)
	}
	slices.SortFunc(out, func(a, b PodInfo) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Pools returns the connections of the tunnels that go out.
func (z *Proxy) Pools() []hbone.PoolInfo { return z.dialer.Pools() }
