package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

// configPatience is how long a tunnel waits for the news that its peer may
// speak for others: the peer may have heard before this node has.
const configPatience = 2 * time.Second

// serveHBONE takes the tunnels of one TLS connection.
func (d *pod) serveHBONE(ctx context.Context, c *net.TCPConn) {
	f := d.z.newFlow(inbound)
	f.setTunnel(mesh.TunnelHBONE)
	f.record.Src.Address = addrPort(c.RemoteAddr())
	err := d.server.Serve(ctx, c, d.serverTLS, d.serveTunnel)
	var handshake *hbone.ConnectError
	if errors.As(err, &handshake) {
		f.record.Dst = peerOf(addrPort(c.LocalAddr()), d.workload(d.z.worlds.Load()))
		f.fail(&Refusal{Why: WhyHandshakeFailure, Detail: err.Error()})
	}
	// Each tunnel has told about itself.
}

// serveTunnel carries one connection that has come through a tunnel.
func (d *pod) serveTunnel(ctx context.Context, t *hbone.Tunnel) {
	in := &inboundConn{pod: d, tunnel: t, flow: d.z.newFlow(inbound)}
	in.flow.setTunnel(mesh.TunnelHBONE)
	sc := in.startSpan()
	app, err := in.connect(ctx)
	if err != nil {
		// It may be too late to tell the client; the record has the reason.
		_ = t.Reject(statusOf(err), err.Error())
		in.flow.fail(err)
		return
	}
	client, err := t.Accept(in.response(sc))
	if err != nil {
		reset(app)
		in.flow.fail(fmt.Errorf("client has gone: %w", err))
		return
	}
	in.flow.opened()
	// The tunnel's context ends with the tunnel itself, whose error tells more.
	in.flow.closed(relay(d.connCtx, client, app, &in.flow.sent, &in.flow.received))
}

// inboundConn is a tunnel on its way to the application.
type inboundConn struct {
	pod    *pod
	tunnel *hbone.Tunnel
	flow   *flow
	self   *mesh.Workload
}

// startSpan begins a span if the tunnel's client samples; otherwise the trace
// ID only helps to find the two ends of a connection.
func (in *inboundConn) startSpan() trace.SpanContext {
	parent := telemetry.ExtractTrace(in.tunnel.Header.Traceparent, in.tunnel.Header.Tracestate)
	if !parent.IsSampled() {
		if parent.HasTraceID() {
			in.flow.record.TraceID = parent.TraceID().String()
		}
		return trace.SpanContext{}
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent)
	sc := in.flow.startSpan(ctx, "tunnel inbound", trace.SpanKindServer)
	in.flow.describeTLS(in.tunnel.TLS())
	return sc
}

func (in *inboundConn) response(sc trace.SpanContext) hbone.ResponseHeader {
	h := hbone.ResponseHeader{Baggage: baggage(in.self)}
	if sc.IsSampled() {
		h.Traceresponse, _ = telemetry.InjectTrace(sc)
	}
	return h
}

// connect admits the tunnel and connects to the application.
func (in *inboundConn) connect(ctx context.Context) (*net.TCPConn, error) {
	t, r := in.tunnel, &in.flow.record
	w := in.pod.z.worlds.Load()
	in.self = in.pod.workload(w)
	a := arrival{authority: t.Authority, peer: t.Peer, source: t.Peer,
		local: addrPort(t.LocalAddr).Addr(), seen: addrPort(t.RemoteAddr).Addr()}
	told, err := hbone.ParseForwarded(t.Header.Forwarded)
	if err == nil {
		a.told = told.Addr()
	}
	in.flow.peer = addrPort(t.RemoteAddr)
	r.Src = telemetry.Peer{Address: in.flow.peer, Identity: t.Peer.String()}
	dst, svc, err := a.destination(w, in.self)
	r.Dst, r.NextHop = peerOf(dst, in.self), dst
	r.Dst.Identity = in.pod.identity.String()
	if svc != nil {
		r.Dst.Service = svc.Key.String()
	}
	if err != nil {
		return nil, err
	}
	if w, err = in.admit(ctx, w, &a); err != nil {
		return nil, err
	}
	r.Reason = string(WhyLocal)
	r.Src.Identity = a.source.String()
	client := a.clientAddress(w, in.self.ID)
	in.describeSource(w, client, told)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return in.pod.connectApp(ctx, client, dst)
}

// admit finds out whom the peer speaks for, and waits a little for the config
// that lets it. It returns the World in which that is so.
func (in *inboundConn) admit(ctx context.Context, w *mesh.World, a *arrival) (*mesh.World, error) {
	asserted := in.tunnel.Header.Source
	if asserted == "" {
		return w, nil
	}
	source, err := spiffeid.FromString(asserted)
	if err != nil || !source.MemberOf(in.pod.z.trustDomain) {
		return w, refuse(WhyBadSource, "asserted source %.100q is no identity of %s", asserted, in.pod.z.trustDomain)
	}
	a.source = source
	patience := time.NewTimer(configPatience)
	defer patience.Stop()
	for {
		changed := in.pod.z.worlds.Changed()
		w := in.pod.z.worlds.Load()
		if a.speaks(w, in.self.ID) {
			return w, nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return w, refuse(WhyNotSpeaker, "%s may not speak for others to this pod", a.peer)
		case <-ctx.Done():
			return w, context.Cause(ctx)
		}
	}
}

// describeSource records the client as it will be seen.
func (in *inboundConn) describeSource(w *mesh.World, client netip.Addr, told netip.AddrPort) {
	src := &in.flow.record.Src
	if client.IsValid() && client == told.Addr() {
		src.Address = told
	}
	if wl, ok := w.WorkloadAt(src.Address.Addr()); ok && wl.Identity.String() == src.Identity {
		src.Workload, src.Namespace = wl.Name, wl.Namespace
	}
}

// connectApp connects to the pod's application from the client's address, from
// the pod's own if that cannot be.
func (d *pod) connectApp(ctx context.Context, client netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	var local netip.AddrPort
	if client.IsValid() {
		local = netip.AddrPortFrom(client, 0)
	}
	c, err := d.dial(ctx, local, dst)
	if err == nil || !local.IsValid() || !isAddressError(err) {
		return c, err
	}
	d.z.log.Debug("client address cannot be used", "pod", d.namespace+"/"+d.name, "client", client.String(), "error", err)
	return d.dial(ctx, netip.AddrPort{}, dst)
}

// isAddressError reports whether binding to the client's address failed, not
// the connection.
func isAddressError(err error) bool {
	for _, e := range []error{syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAFNOSUPPORT, syscall.EACCES, syscall.EPERM, syscall.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// statusOf returns the status with which to refuse a tunnel.
func statusOf(err error) int {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return http.StatusServiceUnavailable
	}
	switch refusal.Why {
	case WhyNotSpeaker:
		return http.StatusForbidden
	default:
		return http.StatusBadRequest
	}
}
