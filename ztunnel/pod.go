package ztunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/serve"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
)

// pod is one enrolled pod: its identity, its accept loops and its connections.
type pod struct {
	z         *Proxy
	id        mesh.WorkloadID
	namespace string
	name      string
	identity  spiffeid.ID
	source    identity.Source
	serverTLS *tls.Config
	server    *hbone.Server // of the tunnels that come in

	// connCtx is the context of the pod's connections; cut ends it.
	connCtx context.Context
	cut     context.CancelCauseFunc
	work    sync.WaitGroup // accept loops, and through them connections

	// stop ends the accept loops of the listeners that came last, and closes
	// these. Guarded by Proxy.mu.
	stop func()
}

func (z *Proxy) newPod(p *handoff.Pod, id spiffeid.ID, src identity.Source) *pod {
	d := &pod{
		z: z, id: p.ID, namespace: p.Namespace, name: p.Name, identity: id, source: src,
		serverTLS: identity.ServerTLS(src, identity.MemberOf(z.trustDomain)),
		server:    hbone.NewServer(hbone.ServerOptions{}),
	}
	d.connCtx, d.cut = context.WithCancelCause(context.Background())
	return d
}

// accept serves the listeners of p and stops serving those that came before.
func (d *pod) accept(p *handoff.Pod) {
	ctx, cancel := context.WithCancel(context.Background())
	if d.stop != nil {
		d.stop()
	}
	d.stop = func() {
		cancel()
		_ = p.Close() // the accept loops close them too, but later
	}
	d.acceptOn(ctx, p.Outbound, d.serveOutbound)
	d.acceptOn(ctx, p.Plaintext, d.servePlaintext)
	d.acceptOn(ctx, p.HBONE, d.serveHBONE)
}

// forever: the pod itself cuts its connections, for all listeners at once.
const forever = time.Duration(1<<63 - 1)

func (d *pod) acceptOn(ctx context.Context, lns []net.Listener, serveConn func(context.Context, *net.TCPConn)) {
	for _, ln := range lns {
		d.work.Go(func() {
			err := serve.Accept(ctx, ln, func(_ context.Context, c net.Conn) {
				tcp, ok := c.(*net.TCPConn)
				if !ok {
					_ = c.Close()
					return
				}
				serveConn(d.connCtx, tcp)
			}, forever)
			if err != nil && !errors.Is(err, net.ErrClosed) {
				d.z.log.Error("accepting has ended", "pod", d.namespace+"/"+d.name, "listener", ln.Addr().String(), "error", err)
			}
		})
	}
}

// finish lets the connections of a pod that accepts no more go on for the
// budget. It returns when they have ended or were cut.
func (d *pod) finish(budget time.Duration) {
	t := time.AfterFunc(budget, func() { d.cut(errCut) })
	defer t.Stop()
	d.work.Wait()
	d.cut(nil)
}

// workload returns the pod as the mesh knows it, or, while the mesh does not
// know it yet, what the node agent has said of it.
func (d *pod) workload(w *mesh.World) *mesh.Workload {
	if wl, ok := w.Workload(d.id); ok {
		return wl
	}
	return &mesh.Workload{ID: d.id, Namespace: d.namespace, Name: d.name, Identity: d.identity}
}

// dial connects from the pod's namespace. A zero local is the pod's own address.
func (d *pod) dial(ctx context.Context, local, remote netip.AddrPort) (*net.TCPConn, error) {
	return d.z.sockets.DialFrom(ctx, d.id, local, remote)
}

// addrPort returns a TCP address as netip has it, with an IPv4 address as such.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
