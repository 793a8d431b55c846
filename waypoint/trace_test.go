package waypoint

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

func attributesOf(s tracetest.SpanStub) map[string]string {
	out := map[string]string{}
	for _, a := range s.Attributes {
		out[string(a.Key)] = a.Value.String()
	}
	return out
}

func only(t *testing.T, spans tracetest.SpanStubs, kind trace.SpanKind) tracetest.SpanStub {
	t.Helper()
	var found []tracetest.SpanStub
	for _, s := range spans {
		if s.SpanKind == kind {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans of kind %s, want one", len(found), kind)
	}
	return found[0]
}

const (
	appTrace    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tunnelTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	serverTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01"
)

// TestSpans: one trace from the application's context through SERVER and CLIENT
// span to the tunnel and the application behind it.
func TestSpans(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	seen := make(chan http.Header, 10)
	connects := r.meshApp(echo, "echo", serverTrace, func(w http.ResponseWriter, req *http.Request) {
		seen <- req.Header.Clone()
		if req.URL.Path == "/a/fail" {
			w.WriteHeader(500)
		}
	})
	r.table(echo, ruleTo("/a", echo))
	c := r.client("shop", false)
	c.header.Traceparent = tunnelTrace
	c.get(echo, "/a/b?q=1", "traceparent: "+appTrace, "tracestate: v=1", "User-Agent: test")
	r.logs.wait(t, 1)

	spans := r.spans.GetSpans()
	server, client := only(t, spans, trace.SpanKindServer), only(t, spans, trace.SpanKindClient)
	app := telemetry.ExtractTrace(appTrace, "")
	if server.Parent.SpanID() != app.SpanID() || server.SpanContext.TraceID() != app.TraceID() {
		t.Errorf("SERVER span's parent is %v, want the application's", server.Parent)
	}
	if len(server.Links) != 1 || server.Links[0].SpanContext.SpanID() != telemetry.ExtractTrace(tunnelTrace, "").SpanID() {
		t.Errorf("SERVER span's links %v, want the tunnel", server.Links)
	}
	if client.Parent.SpanID() != server.SpanContext.SpanID() || len(client.Links) != 0 {
		t.Errorf("CLIENT span: parent %v, links %v", client.Parent, client.Links)
	}
	want, _ := telemetry.InjectTrace(client.SpanContext)
	if h := <-seen; h.Get("traceparent") != want || h.Get("tracestate") != "v=1" {
		t.Errorf("application got %q %q, want %q", h.Get("traceparent"), h.Get("tracestate"), want)
	}
	if k := <-connects; k.header.Traceparent != want {
		t.Errorf("CONNECT said %q, want %q", k.header.Traceparent, want)
	}
	if server.Name != "GET /a/*" || client.Name != "GET" {
		t.Errorf("names %q, %q", server.Name, client.Name)
	}
	for key, want := range map[string]string{
		"http.request.method": "GET", "http.route": "/a/*", "url.path": "/a/b", "url.query": "q=1", "url.scheme": "http",
		"http.response.status_code": "200", "server.address": "echo", "server.port": "80", "client.address": "127.0.0.1",
		"network.protocol.version": "1.1", "user_agent.original": "test",
	} {
		if got := attributesOf(server)[key]; got != want {
			t.Errorf("SERVER span: %s is %q, want %q", key, got, want)
		}
	}
	for key, want := range map[string]string{
		"http.request.method": "GET", "url.full": "http://echo/a/b?q=1", "server.address": "echo", "server.port": "80",
		"http.response.status_code": "200", "service.peer.name": "echo",
	} {
		if got := attributesOf(client)[key]; got != want {
			t.Errorf("CLIENT span: %s is %q, want %q", key, got, want)
		}
	}

	// The second request uses the first one's tunnel, and fails.
	r.spans.Reset()
	c.get(echo, "/a/fail", "traceparent: "+appTrace)
	recs := r.logs.wait(t, 2)
	spans = r.spans.GetSpans()
	server, client = only(t, spans, trace.SpanKindServer), only(t, spans, trace.SpanKindClient)
	if len(client.Links) != 1 || client.Links[0].SpanContext.SpanID().String() != "1111111111111111" {
		t.Errorf("CLIENT span's links %v, want the tunnel at its far end", client.Links)
	}
	if server.Status.Code != codes.Error || client.Status.Code != codes.Error || attributesOf(server)["error.type"] != "500" {
		t.Errorf("statuses %v, %v, %v", server.Status, client.Status, attributesOf(server))
	}
	if recs[1]["trace_id"] != app.TraceID().String() {
		t.Errorf("record's trace %v", recs[1]["trace_id"])
	}
}

// TestSpanParents: without a context of the application's.
func TestSpanParents(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	r.app(echo, say("ok"))
	r.table(echo, ruleTo("/", echo))
	c := r.client("shop", false)
	c.header.Traceparent = tunnelTrace
	c.get(echo, "/")
	r.logs.wait(t, 1)
	tunnel := telemetry.ExtractTrace(tunnelTrace, "")
	if s := only(t, r.spans.GetSpans(), trace.SpanKindServer); s.Parent.SpanID() != tunnel.SpanID() {
		t.Errorf("parent %v, want the tunnel's span", s.Parent)
	}
	r.spans.Reset()
	c = r.client("shop", false)
	c.header.Traceparent = strings.TrimSuffix(tunnelTrace, "01") + "00"
	c.get(echo, "/none%00")
	r.logs.wait(t, 2)
	s := only(t, r.spans.GetSpans(), trace.SpanKindServer)
	if s.Parent.IsValid() || s.SpanContext.TraceID() == tunnel.TraceID() || attributesOf(s)["http.response.status_code"] != "400" {
		t.Errorf("span %v with parent %v, want a root", s.SpanContext, s.Parent)
	}
}

func TestSpanForEachAttempt(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	n := 0
	r.app(echo, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(503)
		}
	})
	rule := ruleTo("/", echo)
	rule.Retry = &routing.Retry{Attempts: 2, Codes: []int{503}, Backoff: 1}
	r.table(echo, rule)
	r.client("shop", false).get(echo, "/")
	r.logs.wait(t, 1)
	var counts []string
	for _, s := range r.spans.GetSpans() {
		if s.SpanKind == trace.SpanKindClient {
			counts = append(counts, attributesOf(s)["http.request.resend_count"]+":"+attributesOf(s)["http.response.status_code"])
		}
	}
	if got := strings.Join(counts, " "); got != ":503 1:503 2:200" {
		t.Errorf("attempts %q", got)
	}
}

// TestWebSocket through both tunnels.
func TestWebSocket(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	r := newRig(t)
	echo := r.service("echo")
	r.meshApp(echo, "echo", "", func(w http.ResponseWriter, req *http.Request) {
		sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]))
		io.Copy(conn, buf)
	})
	r.table(echo, ruleTo("/", echo))
	var conn net.Conn
	conn, err := r.client("shop", false).open(context.Background(), r.vip(echo))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	io.WriteString(conn, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("%q, %v", buf, err)
	}
	conn.Close()
	rec := r.logs.wait(t, 1)[0]
	if rec["status"] != float64(101) || rec["bytes_sent"] != float64(4) || rec["bytes_recv"] != float64(4) {
		t.Errorf("record %v", rec)
	}
}
