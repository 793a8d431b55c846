package meshtest

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Traces is an OpenTelemetry backend that remembers every span it gets.
type Traces struct {
	collector.UnimplementedTraceServiceServer
	// URL for the programs' --otlp-endpoint.
	URL string

	t     testing.TB
	mu    sync.Mutex
	spans []Span
	heard chan struct{}
}

// Span is a span with the service that made it.
type Span struct {
	Service string
	*tracepb.Span
}

// TraceID in hexadecimal.
func (s Span) TraceID() string { return hex.EncodeToString(s.GetTraceId()) }

// ID in hexadecimal.
func (s Span) ID() string { return hex.EncodeToString(s.GetSpanId()) }

// ParentID in hexadecimal, "" for a root.
func (s Span) ParentID() string { return hex.EncodeToString(s.GetParentSpanId()) }

// LinksTo reports whether the span links to the other.
func (s Span) LinksTo(other Span) bool {
	for _, l := range s.GetLinks() {
		if hex.EncodeToString(l.GetSpanId()) == other.ID() && hex.EncodeToString(l.GetTraceId()) == other.TraceID() {
			return true
		}
	}
	return false
}

// Attr is an attribute as text, "" if there is none.
func (s Span) Attr(key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			if v := a.GetValue(); v.GetStringValue() != "" {
				return v.GetStringValue()
			} else {
				return v.String()
			}
		}
	}
	return ""
}

func newTraces(t testing.TB) *Traces {
	t.Helper()
	tr := &Traces{t: t, heard: make(chan struct{})}
	ln, err := net.Listen("tcp", bridge4.Addr().String()+":0")
	must(t, "trace backend", err)
	tr.URL = "http://" + ln.Addr().String()
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, tr)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return tr
}

// Export implements OTLP.
func (tr *Traces) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		service := ""
		for _, a := range rs.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				tr.spans = append(tr.spans, Span{Service: service, Span: s})
			}
		}
	}
	close(tr.heard)
	tr.heard = make(chan struct{})
	return &collector.ExportTraceServiceResponse{}, nil
}

// Wait returns the first span that matches, and fails the test when ctx ends
// before one came.
func (tr *Traces) Wait(ctx context.Context, what string, match func(Span) bool) Span {
	tr.t.Helper()
	for {
		tr.mu.Lock()
		heard := tr.heard
		for _, s := range tr.spans {
			if match(s) {
				tr.mu.Unlock()
				return s
			}
		}
		tr.mu.Unlock()
		select {
		case <-ctx.Done():
			tr.tell()
			tr.t.Fatalf("lab: no span came: %s", what)
		case <-heard:
		}
	}
}

func (tr *Traces) tell() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, s := range tr.spans {
		tr.t.Logf("span %s %s: %s %s parent %s links %d", s.TraceID(), s.ID(), s.Service, s.GetName(), s.ParentID(), len(s.GetLinks()))
	}
}
