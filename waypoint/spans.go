package waypoint

import (
	"context"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

// startServer starts the SERVER span. Its parent is the application's context;
// the tunnel's, if that is sampled, when the application has none; else it is
// the root of a trace of its own.
func (x *exchange) startServer(ctx context.Context) (context.Context, trace.Span) {
	h, tunnel := &x.req.Header, x.c.visitor.span
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(x.serverAttributes()...)}
	parent := telemetry.ExtractTrace(h.Get("traceparent"), h.Get("tracestate"))
	switch {
	case parent.IsValid():
		if tunnel.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: tunnel}))
		}
	case tunnel.IsSampled():
		parent = tunnel
	}
	ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	return x.c.p.tracer.Start(ctx, x.req.Method, opts...)
}

func (x *exchange) serverAttributes() []attribute.KeyValue {
	host, port := wire.SplitHostPort(x.req.Authority)
	if port == 0 {
		port = x.c.visitor.authority.Port()
	}
	client := x.c.visitor.source.Address
	attrs := []attribute.KeyValue{
		attribute.String("http.request.method", knownMethod(x.req.Method)),
		attribute.String("url.path", x.req.Path),
		attribute.String("url.scheme", x.req.Scheme),
		attribute.String("server.address", host),
		attribute.Int("server.port", int(port)),
		attribute.String("client.address", client.Addr().String()),
		attribute.String("network.peer.address", client.Addr().String()),
		attribute.Int("network.peer.port", int(client.Port())),
		attribute.String("network.protocol.name", "http"),
		attribute.String("network.protocol.version", x.req.Proto.String()),
	}
	if x.req.HasQuery {
		attrs = append(attrs, attribute.String("url.query", x.req.Query))
	}
	if ua := x.req.Header.Get("User-Agent"); ua != "" {
		attrs = append(attrs, attribute.String("user_agent.original", ua))
	}
	return attrs
}

// knownMethod keeps the attribute to few values (http.request.method).
func knownMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE":
		return m
	}
	return "_OTHER"
}

// nameSpan names the SERVER span after the route.
func (x *exchange) nameSpan(route string) {
	x.span.SetName(x.req.Method + " " + route)
	x.span.SetAttributes(attribute.String("http.route", route))
}

func (x *exchange) endServer() {
	status := x.record.Status
	if status != 0 {
		x.span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	switch {
	case status >= 500 || status == 0:
		setError(x.span, errorType(status, x.record.Reason))
	case x.record.Err != nil && x.record.Reason == "":
		setError(x.span, "response incomplete") // cut on the way
	}
	x.span.End()
}

func setError(span trace.Span, kind string) {
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, "")
}

// errorType is the reason where there is one, the status otherwise; few values
// in either case.
func errorType(status int, reason string) string {
	if reason != "" {
		return reason
	}
	if status == 0 {
		return "response incomplete"
	}
	return strconv.Itoa(status)
}

// Begin implements upstream.Observer: one CLIENT span for each attempt, whose
// context the application at the other end gets.
func (x *exchange) Begin(ctx context.Context, n int, to mesh.Target) (context.Context, string) {
	attrs := []attribute.KeyValue{
		attribute.String("http.request.method", knownMethod(x.req.Method)),
		attribute.String("url.full", x.req.Scheme+"://"+x.req.Authority+x.req.Target()),
		attribute.String("service.peer.name", x.backend.spec.Service.Name),
		attribute.String("service.peer.namespace", x.backend.spec.Service.Namespace),
		attribute.String("network.peer.address", to.Address.Addr().String()),
		attribute.Int("network.peer.port", int(to.Address.Port())),
	}
	host, _ := wire.SplitHostPort(x.req.Authority)
	attrs = append(attrs, attribute.String("server.address", host), attribute.Int("server.port", int(x.backend.spec.Port)))
	if n > 0 {
		attrs = append(attrs, attribute.Int("http.request.resend_count", n))
	}
	ctx, span := x.c.p.tracer.Start(ctx, x.req.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	if !x.c.p.opts.Tracing.Enabled() {
		return ctx, "" // the application's own context passes as it is
	}
	traceparent, tracestate := telemetry.InjectTrace(span.SpanContext())
	x.req.Header.Set("traceparent", traceparent)
	if x.req.Header.Del("tracestate"); tracestate != "" {
		x.req.Header.Add("tracestate", tracestate)
	}
	return ctx, traceparent
}

// Connected implements upstream.Observer: a tunnel that was opened by an earlier
// request belongs to that one's trace, so this one only links to it.
func (x *exchange) Connected(ctx context.Context, conn net.Conn, reused bool) {
	if !reused {
		return
	}
	if response, ok := upstream.TunnelSpan(conn); ok {
		if sc := telemetry.ExtractTrace(response, ""); sc.IsValid() {
			trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: sc})
		}
	}
}

// End implements upstream.Observer.
func (x *exchange) End(ctx context.Context, status int, err error) {
	if x.record.UpstreamFirst == 0 && err == nil {
		x.record.UpstreamFirst = time.Since(x.record.Start)
	}
	span := trace.SpanFromContext(ctx)
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	switch {
	case err != nil && status == 0:
		setError(span, "connection")
	case err != nil:
		setError(span, "response incomplete")
	case status >= 400:
		setError(span, strconv.Itoa(status))
	}
	span.End()
}
