package ztunnel

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

// flow is what is told about one connection: its record, its metrics, and the
// span of its beginning. The user fills the record on the way and calls fail,
// or opened and then closed.
type flow struct {
	z      *Proxy
	record telemetry.ConnectionRecord
	dir    direction
	tunnel mesh.Tunnel
	span   trace.Span // nil until startSpan
	// peer is the other end of the tunnel's TLS connection, for the span.
	peer netip.AddrPort

	sent, received meter
}

func (z *Proxy) newFlow(d direction) *flow {
	return &flow{z: z, dir: d, record: telemetry.ConnectionRecord{Direction: string(d), Start: time.Now()}}
}

// setTunnel says whether the connection goes through a tunnel; TCP until then.
func (f *flow) setTunnel(t mesh.Tunnel) { f.tunnel = t }

// fail ends a connection that was refused or has reached nobody.
func (f *flow) fail(err error) {
	reason := failure(err)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		f.record.Reason = string(refusal.Why)
	}
	f.z.metrics.failed.WithLabelValues(string(f.dir), security(f.tunnel), reason).Inc()
	f.endSpan(reason)
	f.write(err)
}

// opened is called once the destination is reached.
func (f *flow) opened() {
	d, s := string(f.dir), security(f.tunnel)
	m := f.z.metrics
	m.opened.WithLabelValues(d, s).Inc()
	m.open.WithLabelValues(d, s).Inc()
	m.connect.WithLabelValues(d, s).Observe(time.Since(f.record.Start).Seconds())
	f.sent.total, f.received.total = m.sent.WithLabelValues(d, s), m.received.WithLabelValues(d, s)
	f.endSpan("")
}

// closed ends a connection that was open; err is what relay has returned.
func (f *flow) closed(err error) {
	d, s := string(f.dir), security(f.tunnel)
	f.z.metrics.open.WithLabelValues(d, s).Dec()
	f.z.metrics.closed.WithLabelValues(d, s, result(err)).Inc()
	f.record.Sent, f.record.Received = f.sent.n.Load(), f.received.n.Load()
	f.write(err)
}

func (f *flow) write(err error) {
	f.record.Protocol = f.tunnel.String()
	f.record.Duration = time.Since(f.record.Start)
	f.record.Err = err
	f.record.Log(f.z.log)
}

// startSpan begins the span of a tunnelled connection. It covers the time until
// the destination is reached or the connection refused, not the life of the
// connection, which may be days; the record tells that, under the same trace ID.
// The context returned is the one to pass on: of the span, or one that only
// serves to recognise the connection at its other end.
func (f *flow) startSpan(ctx context.Context, name string, kind trace.SpanKind) trace.SpanContext {
	_, f.span = f.z.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithTimestamp(f.record.Start))
	sc := f.span.SpanContext()
	if !sc.HasTraceID() {
		sc = randomSpanContext()
	}
	f.record.TraceID = sc.TraceID().String()
	return sc
}

// randomSpanContext is unsampled.
func randomSpanContext() trace.SpanContext {
	var c trace.SpanContextConfig
	_, _ = rand.Read(c.TraceID[:]) // never fails
	_, _ = rand.Read(c.SpanID[:])
	return trace.NewSpanContext(c)
}

func (f *flow) endSpan(failure string) {
	if f.span == nil {
		return
	}
	if f.span.IsRecording() {
		f.span.SetAttributes(f.attributes()...)
		if failure != "" {
			f.span.SetAttributes(attribute.String("error.type", failure))
			f.span.SetStatus(codes.Error, failure)
		}
	}
	f.span.End()
}

// attributes follow OpenTelemetry's conventions where there are any; towpath.*
// names the rest.
func (f *flow) attributes() []attribute.KeyValue {
	r := &f.record
	attrs := []attribute.KeyValue{
		attribute.String("network.transport", "tcp"),
		attribute.String("network.protocol.name", "http"),
		attribute.String("network.protocol.version", "2"),
		attribute.String("http.request.method", "CONNECT"),
		attribute.String("towpath.direction", r.Direction),
		attribute.String("towpath.reason", r.Reason),
	}
	attrs = appendAddress(attrs, "client", r.Src.Address)
	attrs = appendAddress(attrs, "server", r.Dst.Address)
	attrs = appendAddress(attrs, "network.peer", f.peer)
	if r.Dst.Address.IsValid() {
		attrs = append(attrs, attribute.String("network.type", networkType(r.Dst.Address.Addr())))
	}
	attrs = appendPeer(attrs, "source", r.Src)
	return appendPeer(attrs, "destination", r.Dst)
}

func networkType(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

func appendAddress(attrs []attribute.KeyValue, prefix string, a netip.AddrPort) []attribute.KeyValue {
	if !a.IsValid() {
		return attrs
	}
	attrs = append(attrs, attribute.String(prefix+".address", a.Addr().String()))
	if a.Port() == 0 {
		return attrs
	}
	return append(attrs, attribute.Int(prefix+".port", int(a.Port())))
}

func appendPeer(attrs []attribute.KeyValue, end string, p telemetry.Peer) []attribute.KeyValue {
	for _, a := range []struct{ key, value string }{
		{".k8s.pod.name", p.Workload},
		{".k8s.namespace.name", p.Namespace},
		{".service", p.Service},
		{".identity", p.Identity},
	} {
		if a.value != "" {
			attrs = append(attrs, attribute.String("towpath."+end+a.key, a.value))
		}
	}
	return attrs
}

// describeTLS adds what the tunnel's TLS connection has agreed on.
func (f *flow) describeTLS(cs tls.ConnectionState) {
	if f.span == nil || !f.span.IsRecording() {
		return
	}
	f.span.SetAttributes(
		attribute.String("tls.protocol.name", "tls"),
		attribute.String("tls.protocol.version", "1.3"), // the only one of the mesh
		attribute.String("tls.cipher", tls.CipherSuiteName(cs.CipherSuite)),
		attribute.String("tls.curve", cs.CurveID.String()),
		attribute.Bool("tls.established", cs.HandshakeComplete))
}

// peerOf names a workload at an address in a record; wl may be nil.
func peerOf(addr netip.AddrPort, wl *mesh.Workload) telemetry.Peer {
	p := telemetry.Peer{Address: addr}
	if wl != nil {
		p.Workload, p.Namespace = wl.Name, wl.Namespace
	}
	return p
}

func identityString(id spiffeid.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
