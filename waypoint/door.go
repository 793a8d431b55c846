package waypoint

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/serve"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

// defaultTableWait is how long a tunnel waits for a table that its client's
// proxy has heard of before us.
const defaultTableWait = 2 * time.Second

// Serve takes tunnels on the listener until ctx ends, then drains for up to
// drain and cuts what is left. It closes the listener.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener, drain time.Duration) error {
	stop := context.AfterFunc(ctx, p.Drain)
	defer stop()
	config := identity.ServerTLS(p.opts.Identity, identity.MemberOf(p.opts.TrustDomain))
	return serve.Accept(ctx, ln, func(ctx context.Context, c net.Conn) {
		err := p.hbone.Serve(ctx, c, config, p.tunnel)
		var handshake *hbone.ConnectError
		if errors.As(err, &handshake) {
			p.metrics.handshakeFailures.Inc()
			p.log.Info("no tunnel", "client", c.RemoteAddr().String(), "error", err)
		}
	}, drain)
}

// visitor is who has opened a tunnel and what for.
type visitor struct {
	source    upstream.Source
	namespace string
	workload  string // pod name, for records
	authority netip.AddrPort
	service   mesh.ServiceKey
	// span is that of the tunnel, as the client's proxy tells it.
	span trace.SpanContext
}

// refusal is the answer to a CONNECT that is not let in.
type refusal struct {
	status int
	reason string
}

// tunnel handles one CONNECT.
func (p *Proxy) tunnel(ctx context.Context, t *hbone.Tunnel) {
	start := time.Now()
	v, l, ref := p.admit(ctx, t)
	if ref != nil {
		p.metrics.tunnels.WithLabelValues("refused").Inc()
		p.refuse(t, v, ref, start)
		return
	}
	p.metrics.tunnels.WithLabelValues("accepted").Inc()
	if l.spec.Protocol == routing.ProtocolTCP {
		p.serveTCP(ctx, t, v)
		return
	}
	conn, err := t.Accept(hbone.ResponseHeader{})
	if err != nil {
		return // the client has gone
	}
	c := &connection{p: p, visitor: v, leave: make(chan struct{})}
	stop := context.AfterFunc(p.draining, c.sendAway)
	defer stop()
	if err := p.opts.Server.Serve(ctx, conn, c.handle, c.leave); err != nil {
		p.log.Debug("connection ended", "client", v.source.Address.String(), "error", err)
	}
}

// admit finds out what a tunnel is for. The visitor is filled as far as could
// be told, refused or not.
func (p *Proxy) admit(ctx context.Context, t *hbone.Tunnel) (*visitor, *listener, *refusal) {
	v := p.visitor(t)
	if t.Header.Source != "" {
		// Only one waypoint handles a request, so nobody may speak for others
		// here.
		return v, nil, &refusal{403, "peer may not assert another identity"}
	}
	if !v.authority.IsValid() {
		return v, nil, &refusal{404, "authority is not a Service address"}
	}
	tab, ref := p.awaitTable(ctx, v)
	if ref != nil {
		return v, nil, ref
	}
	if ns := tab.spec.ClientNamespace; ns != "" && ns != v.namespace {
		return v, nil, &refusal{403, "Service is not served to this namespace"}
	}
	l := tab.listeners[v.authority.Port()]
	if l == nil {
		return v, nil, &refusal{404, "port is not served here"}
	}
	return v, l, nil
}

// awaitTable returns the table of the Service at the visitor's authority. A
// waypoint is no open relay: without a table it refuses.
func (p *Proxy) awaitTable(ctx context.Context, v *visitor) (*table, *refusal) {
	timeout := time.NewTimer(p.tableWait)
	defer timeout.Stop()
	for {
		tablesChanged, worldChanged := p.tables.wait(), p.opts.Worlds.Changed()
		svc, ok := p.opts.Worlds.Load().ServiceAt(v.authority.Addr())
		if ok {
			v.service = svc.Key
			if tab := p.tables.load()[svc.Key]; tab != nil {
				return tab, nil
			}
		}
		select {
		case <-tablesChanged:
		case <-worldChanged:
		case <-ctx.Done():
			return nil, &refusal{503, "client gave up"}
		case <-timeout.C:
			if !ok {
				return nil, &refusal{404, "authority is not a Service address"}
			}
			return nil, &refusal{404, "Service is not served here"}
		}
	}
}

func (p *Proxy) visitor(t *hbone.Tunnel) *visitor {
	v := &visitor{source: upstream.Source{Identity: t.Peer, Address: clientAddress(t)}}
	v.namespace, _, _ = identity.ServiceAccountOf(t.Peer)
	v.authority, _ = t.Authority.AddrPort()
	v.span = telemetry.ExtractTrace(t.Header.Traceparent, t.Header.Tracestate)
	if wl, ok := p.opts.Worlds.Load().WorkloadAt(v.source.Address.Addr()); ok {
		v.workload = wl.Name
	}
	return v
}

// clientAddress is the client's own address: that of the tunnel's connection,
// which the client's node makes from inside the pod. The port that the peer
// tells is believed if the address beside it is the same.
func clientAddress(t *hbone.Tunnel) netip.AddrPort {
	seen, _ := netip.ParseAddrPort(t.RemoteAddr.String())
	seen = netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
	if told, err := hbone.ParseForwarded(t.Header.Forwarded); err == nil && told.Addr() == seen.Addr() && told.Port() != 0 {
		return told
	}
	return seen
}

// refuse answers a CONNECT and records it.
func (p *Proxy) refuse(t *hbone.Tunnel, v *visitor, ref *refusal, start time.Time) {
	err := t.Reject(ref.status, ref.reason)
	r := telemetry.RequestRecord{
		Method: "CONNECT", Authority: t.Authority.String(), Version: "2",
		Src: v.src(), Dst: v.dst(), Status: ref.status, Reason: ref.reason,
		TraceID: traceID(v.span), Start: start, Duration: time.Since(start), Err: err,
	}
	r.Log(p.log)
}

func (v *visitor) src() telemetry.Peer {
	return telemetry.Peer{Address: v.source.Address, Workload: v.workload, Namespace: v.namespace, Identity: idString(v.source.Identity)}
}

func (v *visitor) dst() telemetry.Peer {
	peer := telemetry.Peer{Address: v.authority}
	if v.service.Name != "" {
		peer.Service = v.service.String()
	}
	return peer
}

func idString(id spiffeid.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func traceID(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return sc.TraceID().String()
}

// connection is an HTTP connection inside a tunnel.
type connection struct {
	p       *Proxy
	visitor *visitor

	leaveOnce sync.Once
	leave     chan struct{} // closed when the client should connect anew
}

// sendAway makes the client connect anew after the requests under way.
func (c *connection) sendAway() { c.leaveOnce.Do(func() { close(c.leave) }) }
