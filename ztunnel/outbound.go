package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

const (
	// connectTimeout bounds the attempt at the only or last hop, firstTimeout
	// those before it.
	connectTimeout = 10 * time.Second
	firstTimeout   = 3 * time.Second
)

// poolKey tells the TLS connections of the pool apart: they are never shared
// between pods, and a peer with another identity is another peer.
type poolKey struct {
	Pod     mesh.WorkloadID
	Address netip.AddrPort
	Expect  string
}

func (k poolKey) String() string { return fmt.Sprintf("%s -> %s at %s", k.Pod, k.Expect, k.Address) }

// serveOutbound carries one connection that the pod has made.
func (d *pod) serveOutbound(ctx context.Context, c *net.TCPConn) {
	o := &outboundConn{pod: d, client: c, flow: d.z.newFlow(outbound)}
	server, err := o.connect(ctx)
	if err != nil {
		reset(c)
		o.flow.fail(err)
		return
	}
	o.flow.opened()
	o.flow.closed(relay(ctx, c, server, &o.flow.sent, &o.flow.received))
}

// outboundConn is a connection on its way.
type outboundConn struct {
	pod    *pod
	client *net.TCPConn
	flow   *flow
	source *mesh.Workload
	header hbone.Header
}

// connect decides and then tries one hop after the other. Not a byte of the
// client's is sent before it returns.
func (o *outboundConn) connect(ctx context.Context) (stream, error) {
	r := &o.flow.record
	dst, err := o.pod.z.sockets.OriginalDst(o.client)
	if err != nil {
		return nil, refuse(WhyNoOriginal, "original destination: %v", err)
	}
	w := o.pod.z.worlds.Load()
	o.source = o.pod.workload(w)
	r.Src = peerOf(addrPort(o.client.RemoteAddr()), o.source)
	r.Src.Identity = o.source.Identity.String()
	dec, err := decide(w, o.source, dst, rand.IntN)
	r.Dst = peerOf(netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), nil)
	r.Reason = string(dec.Why)
	if dec.Service != nil {
		r.Dst.Service = dec.Service.Key.String()
	}
	if err != nil {
		return nil, err
	}
	return o.tryHops(ctx, dec)
}

func (o *outboundConn) tryHops(ctx context.Context, dec Decision) (stream, error) {
	var last error
	for i, hop := range dec.Hops {
		timeout := firstTimeout
		if i == len(dec.Hops)-1 {
			timeout = connectTimeout
		}
		o.note(dec, hop)
		server, err := o.tryHop(ctx, hop, timeout)
		if err == nil {
			return server, nil
		}
		last = err
		if errors.Is(err, hbone.ErrDenied) || ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// note records which way the connection is tried.
func (o *outboundConn) note(dec Decision, hop Hop) {
	r := &o.flow.record
	r.NextHop, o.flow.peer = hop.Address, hop.Address
	r.Dst.Identity = identityString(hop.Expect)
	if dec.Waypoint.IsZero() && hop.Workload != nil {
		r.Dst.Workload, r.Dst.Namespace = hop.Workload.Name, hop.Workload.Namespace
	}
	o.flow.setTunnel(hop.Tunnel)
}

func (o *outboundConn) tryHop(ctx context.Context, hop Hop, timeout time.Duration) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if hop.Tunnel == mesh.TunnelHBONE {
		return o.tunnel(ctx, hop)
	}
	c, err := o.pod.dial(ctx, netip.AddrPort{}, hop.Address)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (o *outboundConn) tunnel(ctx context.Context, hop Hop) (stream, error) {
	if o.flow.span == nil {
		sc := o.flow.startSpan(context.Background(), "tunnel outbound", trace.SpanKindClient)
		o.header = o.headerFor(sc)
	}
	c, err := o.pod.z.dialer.Dial(ctx, hbone.Request{
		Authority: hop.Authority.String(),
		Address:   hop.Address,
		TLS:       identity.ClientTLS(o.pod.source, identity.OneOf(hop.Expect)),
		PoolKey:   poolKey{Pod: o.pod.id, Address: hop.Address, Expect: hop.Expect.String()},
		DialTCP: func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
			c, err := o.pod.dial(ctx, netip.AddrPort{}, addr)
			if err != nil {
				return nil, err // not a nil *net.TCPConn in an interface
			}
			return c, nil
		},
		Header: o.header,
	})
	if err != nil {
		return nil, err
	}
	o.flow.describeTLS(c.TLS())
	return c, nil
}

func (o *outboundConn) headerFor(sc trace.SpanContext) hbone.Header {
	h := hbone.Header{Baggage: baggage(o.source), Forwarded: hbone.FormatForwarded(o.flow.record.Src.Address)}
	h.Traceparent, h.Tracestate = telemetry.InjectTrace(sc)
	return h
}
