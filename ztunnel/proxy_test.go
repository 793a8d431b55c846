package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

// pair is two nodes: web runs on one, cart-1 and cart-2 behind Service cart on
// the other.
type pair struct {
	*rig
	a, b              *node
	web, cart1, cart2 *mesh.Workload
}

func newPair(t testing.TB) *pair {
	p := &pair{rig: newRig(t)}
	w := testWorld()
	p.world.Apply(everything(w))
	p.web, _ = w.Workload("shop/web-1")
	p.cart1, _ = w.Workload("shop/cart-1")
	p.cart2, _ = w.Workload("shop/cart-2")
	p.a, p.b = p.node(time.Minute), p.node(time.Minute)
	p.a.add(p.web)
	p.b.add(p.cart1)
	return p
}

// everything is the update that makes the World.
func everything(w *mesh.World) (u mesh.Update) {
	for wl := range w.Workloads() {
		u.Workloads = append(u.Workloads, wl)
	}
	for s := range w.Services() {
		u.Services = append(u.Services, s)
	}
	for s := range w.Slices() {
		u.Slices = append(u.Slices, s)
	}
	return u
}

func TestTunnelFromPodToPod(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:5432", func(c *net.TCPConn) {
		io.WriteString(c, "220 ready\n") // server first
		all, _ := io.ReadAll(c)          // until the client has closed its half
		fmt.Fprintf(c, "got %s", all)
	})
	c := p.net.redirect("10.1.0.1:15001", "10.1.0.2:5432")
	mustRead(t, c, "220 ready\n")
	mustWrite(t, c, "hello")
	c.CloseWrite()
	mustRead(t, c, "got hello")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the end: %d, %v", n, err)
	}

	out, in := p.a.records(1)[0], p.b.records(1)[0]
	for name, r := range map[string]record{"outbound": out, "inbound": in} {
		if r.Direction != name || r.Protocol != "HBONE" || r.Sent != 5 || r.Received != 19 || r.Error != "" ||
			r.Src.Workload != "web-1" && name == "outbound" || r.Src.Identity != p.web.Identity.String() ||
			r.Dst.Workload != "cart-1" || r.Dst.Namespace != "shop" || r.Dst.Identity != p.cart1.Identity.String() || r.Dst.Addr != "10.1.0.2:5432" {
			t.Errorf("%s record: %+v", name, r)
		}
	}
	if out.Reason != "workload" || in.Reason != "local" || out.NextHop != "10.1.0.2:15008" || out.TraceID == "" || out.TraceID != in.TraceID {
		t.Errorf("records: %+v, %+v", out, in)
	}
	for _, n := range []*node{p.a, p.b} {
		n.wantMetric("connections_opened_total", 1)
		n.wantMetric("connections_closed_total", 1)
		n.wantMetric("connections_failed_total", 0)
		n.wantMetric("connections_open", 0)
		n.wantMetric("sent_bytes_total", 5)
		n.wantMetric("received_bytes_total", 19)
		n.wantMetric("connect_duration_seconds", 1)
	}
	p.a.wantLabels("connections_closed_total", "mutual_tls", "outbound", "done")
}

func TestSpans(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.net.redirect("10.1.0.1:15001", "10.96.0.6:80")
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	// Told while the connection is still open.
	spans := p.awaitSpans(2)
	in, out := spans[0], spans[1]
	if in.SpanKind == trace.SpanKindClient {
		in, out = out, in
	}
	if out.SpanKind != trace.SpanKindClient || in.SpanKind != trace.SpanKindServer || out.Parent.IsValid() ||
		in.Parent.SpanID() != out.SpanContext.SpanID() || in.SpanContext.TraceID() != out.SpanContext.TraceID() {
		t.Errorf("in %+v, out %+v", in, out)
	}
	got := map[string]string{}
	for _, a := range out.Attributes {
		got[string(a.Key)] = a.Value.String()
	}
	for key, want := range map[string]string{
		"network.transport": "tcp", "network.type": "ipv4", "network.peer.address": "10.1.0.2", "network.peer.port": "15008",
		"server.address": "10.96.0.6", "server.port": "80", "tls.protocol.version": "1.3",
		"towpath.source.identity": p.web.Identity.String(), "towpath.destination.identity": p.cart1.Identity.String(),
		"towpath.destination.k8s.pod.name": "cart-1", "towpath.destination.service": "shop/dual", "towpath.reason": "endpoint"} {
		if got[key] != want {
			t.Errorf("%s = %q, want %q", key, got[key], want)
		}
	}
}

func TestRetryAtAnotherEndpoint(t *testing.T) {
	p := newPair(t)
	// cart-2 is not enrolled anywhere and cart-3 has no application: of three
	// endpoints one works, whichever chance takes first.
	p.net.serve("10.1.0.2:8080", echoApp)
	for range 10 {
		c := p.net.redirect("10.1.0.1:15001", "10.96.0.1:80")
		mustWrite(t, c, "x")
		mustRead(t, c, "x")
		c.Close()
	}
	for _, r := range p.a.records(10) {
		if r.Dst.Workload != "cart-1" || r.Dst.Service != "shop/cart" || r.Reason != "endpoint" || r.Error != "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestAppRefuses(t *testing.T) {
	p := newPair(t)
	c := p.net.redirect("10.1.0.1:15001", "10.1.0.2:1")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read: %v", err)
	}
	if r := p.a.records(1)[0]; r.Error != "tunnel refused: 503 connection refused" {
		t.Errorf("%+v", r)
	}
	if r := p.b.records(1)[0]; r.Error != "connection refused" || r.Dst.Addr != "10.1.0.2:1" {
		t.Errorf("%+v", r)
	}
	p.a.wantLabels("connections_failed_total", "mutual_tls", "outbound", "unavailable")
	// Errors are in the spans too.
	for _, s := range p.awaitSpans(2) {
		if s.Status.Description == "" {
			t.Errorf("span %s has no error", s.Name)
		}
	}
}

func TestOutsideTheMesh(t *testing.T) {
	p := newPair(t)
	p.net.serve("203.0.113.1:80", echoApp)
	p.net.serve("10.1.0.4:80", echoApp)
	for _, dst := range []string{"203.0.113.1:80", "10.1.0.4:80"} {
		c := p.net.redirect("10.1.0.1:15001", dst)
		mustWrite(t, c, "plain")
		c.CloseWrite()
		mustRead(t, c, "plain")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %v", dst, err)
		}
	}
	for _, r := range p.a.records(2) {
		if r.Protocol != "TCP" || r.Sent != 5 || r.Received != 5 || r.Dst.Identity != "" {
			t.Errorf("%+v", r)
		}
	}
	if len(p.spans.GetSpans()) != 0 {
		t.Error("spans of plain connections")
	}
}

func TestRefusedOutbound(t *testing.T) {
	p := newPair(t)
	for i, tc := range []struct{ dst, why string }{
		{"10.1.0.2:15008", "loop"}, {"10.96.0.4:80", "no_endpoint"}, {"10.96.0.1:99", "no_port"}, {"10.1.0.7:80", "no_identity"}} {
		c := p.net.redirect("10.1.0.1:15001", tc.dst)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", tc.dst, err)
		}
		if r := p.a.records(i + 1)[i]; r.Reason != tc.why || r.Error == "" || r.Src.Workload != "web-1" {
			t.Errorf("%s: %+v", tc.dst, r)
		}
	}
	p.a.wantMetric("connections_failed_total", 4)
	p.a.wantMetric("connections_opened_total", 0)
}

func TestWrongIdentityIsRefused(t *testing.T) {
	p := newPair(t)
	// The address of cart-1 now belongs to another pod, as the mesh has it.
	thief := workload("other", "thief-1", mesh.TunnelHBONE, "10.1.0.2")
	p.world.Apply(mesh.Update{RemovedWorkloads: []mesh.WorkloadID{p.cart1.ID}, Workloads: []*mesh.Workload{thief}})
	c := p.net.redirect("10.1.0.1:15001", "10.1.0.2:8080")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read: %v", err)
	}
	r := p.a.records(1)[0]
	if r.Error == "" || r.Dst.Identity != thief.Identity.String() {
		t.Errorf("%+v", r)
	}
	if r := p.b.records(1)[0]; r.Reason != "handshake_failure" || r.Dst.Namespace != "shop" {
		t.Errorf("%+v", r)
	}
}

func TestPlaintextInbound(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.net.redirect("10.1.0.2:15006", "10.1.0.2:8080")
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	c.Close()
	if r := p.b.records(1)[0]; r.Direction != "plaintext" || r.Protocol != "TCP" || r.Src.Identity != "" || r.Dst.Workload != "cart-1" {
		t.Errorf("%+v", r)
	}
	loop := p.net.redirect("10.1.0.2:15006", "10.1.0.2:15006")
	if _, err := loop.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("loop: %v", err)
	}
	if r := p.b.recordWhere(2, func(r record) bool { return r.Error != "" }); r.Reason != "loop" {
		t.Errorf("%+v", r)
	}
}

// peer dials tunnels to cart-1 as some identity, by hand.
type peer struct {
	p      *pair
	dialer *hbone.Dialer
	id     spiffeid.ID
}

func (p *pair) peer(id spiffeid.ID) *peer {
	x := &peer{p: p, dialer: hbone.NewDialer(hbone.DialerOptions{}), id: id}
	p.t.Cleanup(x.dialer.Close)
	return x
}

func (x *peer) dial(authority string, h hbone.Header) (*hbone.Conn, error) {
	return x.dialer.Dial(x.p.t.Context(), hbone.Request{
		Authority: authority, Header: h, PoolKey: x.id,
		TLS: identity.ClientTLS(x.p.ca.Source(x.id), identity.OneOf(x.p.cart1.Identity)),
		DialTCP: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return x.p.net.DialFrom(ctx, "peer", netip.AddrPort{}, netip.MustParseAddrPort("10.1.0.2:15008"))
		},
	})
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var se *hbone.StatusError
	if !errors.As(err, &se) || se.Status != status {
		t.Errorf("got %v, want %d", err, status)
	}
}

func TestInboundAuthority(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	x := p.peer(p.web.Identity)
	for _, authority := range []string{"10.1.0.2:8080", "cart.shop.svc.cluster.local:80"} {
		c, err := x.dial(authority, hbone.Header{})
		if err != nil {
			t.Fatalf("%s: %v", authority, err)
		}
		mustWrite(t, c, "x")
		mustRead(t, c, "x")
		c.Close()
	}
	for _, authority := range []string{"10.1.0.3:8080", "169.254.169.254:80", "10.1.0.2:15001", "web.shop.svc.cluster.local:80"} {
		_, err := x.dial(authority, hbone.Header{})
		wantStatus(t, err, 400)
	}
	if got := len(p.b.records(6)); got != 6 {
		t.Errorf("%d records", got)
	}
}

func TestAssertedSource(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	waypoint := idOf("shop", "waypoint")
	x := p.peer(waypoint)
	h := hbone.Header{Source: p.web.Identity.String(), Forwarded: hbone.FormatForwarded(netip.MustParseAddrPort("10.1.0.1:4711"))}

	if _, err := x.dial("10.1.0.2:8080", h); !errors.Is(err, hbone.ErrDenied) {
		t.Errorf("a peer that may not speak: %v", err)
	}
	bad := h
	bad.Source = "spiffe://elsewhere/ns/shop/sa/web"
	_, err := x.dial("10.1.0.2:8080", bad)
	wantStatus(t, err, 400)

	// The news that it may comes while a tunnel waits.
	asked := make(chan struct{})
	go func() {
		<-asked
		svc, _ := p.world.Load().Service(mesh.ServiceKey{Namespace: "shop", Name: "cart"})
		bound := *svc
		bound.Speakers = []spiffeid.ID{waypoint}
		p.world.Apply(mesh.Update{Services: []*mesh.Service{&bound}})
	}()
	close(asked)
	c, err := x.dial("10.1.0.2:8080", h)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	if d := p.net.lastDial(); d.local != netip.MustParseAddrPort("10.1.0.1:0") || d.remote != netip.MustParseAddrPort("10.1.0.2:8080") || d.pod != p.cart1.ID {
		t.Errorf("application was dialled by %+v", d)
	}
	c.Close()
	r := p.b.recordWhere(3, func(r record) bool { return r.Error == "" })
	if r.Src.Identity != p.web.Identity.String() || r.Src.Workload != "web-1" || r.Src.Addr != "10.1.0.1:4711" {
		t.Errorf("%+v", r)
	}
}

func TestClientAddressThatCannotBeUsed(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	p.net.badLocal = netip.MustParseAddr("10.1.0.1")
	c, err := p.peer(p.web.Identity).dial("10.1.0.2:8080", hbone.Header{Forwarded: `for="10.1.0.1:1"`})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if d := p.net.lastDial(); d.local.IsValid() {
		t.Errorf("dialled by %+v", d)
	}
}

func TestTraceresponse(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	x := p.peer(p.web.Identity)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	c, err := x.dial("10.1.0.2:8080", hbone.Header{Traceparent: parent + "01"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	got := telemetry.ExtractTrace(c.Response().Traceresponse, "")
	if got.TraceID().String() != parent[3:35] || got.SpanID() != p.awaitSpans(1)[0].SpanContext.SpanID() {
		t.Errorf("traceresponse %q", c.Response().Traceresponse)
	}
	if c, err = x.dial("10.1.0.2:8080", hbone.Header{Traceparent: parent + "00"}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c.Response().Traceresponse != "" || len(p.spans.GetSpans()) != 1 {
		t.Error("an unsampled tunnel has a span")
	}
	if r := p.b.recordWhere(2, func(r record) bool { return r.TraceID != "" }); r.TraceID != parent[3:35] {
		t.Errorf("record without the trace: %+v", r)
	}
}

// TestThroughWaypoint lets the test be the waypoint.
func TestThroughWaypoint(t *testing.T) {
	p := newPair(t)
	ln := p.net.listen("10.1.0.9:15008")
	seen := make(chan *hbone.Tunnel, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		config := identity.ServerTLS(p.ca.Source(idOf("shop", "waypoint")), identity.MemberOf(td))
		hbone.NewServer(hbone.ServerOptions{}).Serve(t.Context(), c, config, func(_ context.Context, tu *hbone.Tunnel) {
			seen <- tu
			if c, err := tu.Accept(hbone.ResponseHeader{}); err == nil {
				io.Copy(c, c)
				c.CloseWrite()
			}
		})
	}()
	defer ln.Close()
	c := p.net.redirect("10.1.0.1:15001", "10.96.0.3:80")
	mustWrite(t, c, "GET /")
	mustRead(t, c, "GET /")
	tu := <-seen
	sc := telemetry.ExtractTrace(tu.Header.Traceparent, "")
	if tu.Authority.String() != "10.96.0.3:80" || tu.Peer != p.web.Identity || !sc.IsSampled() ||
		tu.Header.Forwarded != hbone.FormatForwarded(addrPort(c.LocalAddr())) || tu.Header.Baggage != baggage(p.web) || tu.Header.Source != "" {
		t.Errorf("waypoint saw %+v", tu)
	}
	c.Close()
	if r := p.a.records(1)[0]; r.Reason != "waypoint" || r.Dst.Identity != idOf("shop", "waypoint").String() ||
		r.Dst.Service != "bank/account" || r.NextHop != "10.1.0.9:15008" {
		t.Errorf("%+v", r)
	}
}

// TestWaypointAway: the connection is refused, although an endpoint is there.
func TestWaypointAway(t *testing.T) {
	p := newPair(t)
	p.net.serve("10.1.0.2:8080", echoApp)
	c := p.net.redirect("10.1.0.1:15001", "10.96.0.3:80") // nobody listens at 10.1.0.9
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read: %v", err)
	}
	if r := p.a.records(1)[0]; r.Reason != "waypoint" || r.Error == "" {
		t.Errorf("%+v", r)
	}
	p.b.records(0)
}
