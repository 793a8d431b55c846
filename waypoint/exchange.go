package waypoint

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/filter"
)

// exchange is one request and what becomes of it: the state that the pipeline
// keeps, and its observer.
type exchange struct {
	c   *connection
	req *wire.Request
	w   wire.Responder
	ctx context.Context // carries the SERVER span

	ruleRun, backendRun filter.Run

	record    telemetry.RequestRecord
	span      trace.Span
	routeKind string
	backend   *backend
	received  atomic.Int64 // bytes of the request's body
	isGRPC    bool
}

// begin opens record and span.
func (c *connection) begin(ctx context.Context, req *wire.Request, w wire.Responder) *exchange {
	x := &exchange{c: c, req: req, w: w, routeKind: "none"}
	x.record = telemetry.RequestRecord{
		Method: req.Method, Scheme: req.Scheme, Authority: req.Authority, Path: req.Path, Version: req.Proto.String(),
		Src: c.visitor.src(), Dst: c.visitor.dst(), Start: time.Now(),
	}
	x.isGRPC = strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc")
	if req.Authority == "" {
		req.Authority = c.visitor.authority.String() // HTTP/1.0 without Host
	}
	if req.Body != nil {
		req.Body = &countedBody{ReadCloser: req.Body, n: &x.received}
	}
	x.ctx, x.span = x.startServer(ctx)
	x.record.TraceID = traceID(x.span.SpanContext())
	c.p.metrics.active.Inc()
	return x
}

// end closes them, whatever has happened.
func (x *exchange) end() {
	x.record.Duration = time.Since(x.record.Start)
	x.record.RequestBytes += x.received.Load()
	x.endServer()
	x.c.p.metrics.active.Dec()
	x.c.p.metrics.request(x)
	x.record.Log(x.c.p.log)
}

// send sends a response, the backend's or one of our own for the reason given,
// after the rule's filters have seen it.
func (x *exchange) send(resp *wire.Response, reason string) error {
	x.ruleRun.Response(resp)
	x.record.Status = resp.Status
	if reason != "" {
		x.record.Reason = reason
	}
	sent, err := x.w.Send(resp)
	x.record.ResponseBytes, x.record.RequestBytes = sent.Body, sent.Received
	if err != nil {
		x.record.Err = err
	}
	x.record.GRPCStatus = resp.Header.Get("grpc-status")
	if resp.Trailer != nil && x.record.GRPCStatus == "" {
		x.record.GRPCStatus = resp.Trailer.Get("grpc-status")
	}
	return err
}

// answer sends a response of our own. A gRPC client gets it as a gRPC status.
func (x *exchange) answer(status int, reason string, err error) {
	resp := &wire.Response{Status: status}
	if x.isGRPC && x.req.Refused == nil {
		resp = grpcAnswer(status, reason)
	}
	_ = x.send(resp, reason) // the record has it
	x.record.Status = resp.Status
	if x.record.Err == nil {
		x.record.Err = err
	}
}

// grpcAnswer is a trailers-only response. The codes are those that the gRPC
// specification gives to HTTP statuses; Gateway API wants UNAVAILABLE for a
// backend that is invalid or not there (GRPCRouteRule.BackendRefs).
func grpcAnswer(status int, reason string) *wire.Response {
	code := 14 // UNAVAILABLE
	switch status {
	case 404:
		code = 12 // UNIMPLEMENTED
	case 504:
		code = 4 // DEADLINE_EXCEEDED
	}
	resp := &wire.Response{Status: 200}
	resp.Header.Add("content-type", "application/grpc")
	resp.Header.Add("grpc-status", strconv.Itoa(code))
	resp.Header.Add("grpc-message", reason)
	return resp
}

// countedBody counts what is read. It may be read from another goroutine.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
