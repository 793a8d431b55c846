package meshtest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/meshtest"
	"github.com/towpath-mesh/towpath/internal/routing"
)

func TestMain(m *testing.M) {
	code := meshtest.OwnNamespace(m.Run)
	meshtest.RemovePrograms()
	os.Exit(code)
}

// limit bounds every scenario: enough for a busy machine with two cores.
const limit = 40 * time.Second

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// marker is what must not be readable on the wire.
const marker = "nobody-else-may-read-this"

// echo answers each connection with the client's address as the application
// sees it, and then with what it is sent.
func echo(t *testing.T, h *meshtest.Host, port uint16) {
	t.Helper()
	ln := h.Listen(t, port)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// talk connects, reads whom the application takes for its client, sends the
// marker, ends its half, and reads it back.
func talk(ctx context.Context, from *meshtest.Host, to netip.AddrPort) (client string, err error) {
	c, err := from.Dial(ctx, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	r := bufio.NewReader(c)
	client, err = r.ReadString('\n') // the server speaks first
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, marker); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	got, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	if string(got) != marker {
		return "", fmt.Errorf("echo of %q is %q", marker, got)
	}
	host, _, err := net.SplitHostPort(strings.TrimSpace(client))
	return host, err
}

func inbound(from, to string) func(meshtest.Record) bool {
	return func(r meshtest.Record) bool {
		return r.Text("direction") == "inbound" && r.Text("src", "identity") == from && r.Text("dst", "workload") == to
	}
}

// TestPodToPod: bytes, the client's real address, both identities and the
// capture, over both address families, between nodes and on one.
func TestPodToPod(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	one, two := lab.Node("one"), lab.Node("two")
	a := lab.MeshPod(ctx, one, "shop", "a")
	b := lab.MeshPod(ctx, two, "shop", "b")
	near := lab.MeshPod(ctx, one, "shop", "near")
	outside := lab.Pod(one, "other", "outside")
	for _, h := range []*meshtest.Pod{b, near, outside} {
		echo(t, h.Host, 8080)
	}
	tests := []struct {
		name     string
		from, to *meshtest.Pod
		v6       bool
		tunnel   bool
	}{
		{"two nodes, IPv4", a, b, false, true},
		{"two nodes, IPv6", a, b, true, true},
		{"one node", a, near, false, true},
		{"out of the mesh", a, outside, false, false},
		{"into the mesh", outside, b, false, false},
		{"into the mesh, IPv6", outside, b, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src, dst := tt.from.V4, tt.to.V4
			if tt.v6 {
				src, dst = tt.from.V6, tt.to.V6
			}
			wire := meshtest.Capture(t)
			// The world of a ztunnel may be a moment behind the pod's report: the
			// first connections may go as plain TCP.
			for {
				client, err := talk(ctx, tt.from.Host, netip.AddrPortFrom(dst, 8080))
				if err != nil {
					t.Fatal(err)
				}
				if client != src.String() {
					t.Fatalf("the application sees %s as its client, want %s", client, src)
				}
				if !tt.tunnel || len(tt.to.Node.ZTunnel.Records(inbound(tt.from.Workload.Identity.String(), tt.to.Workload.Name))) > 0 {
					break
				}
				wire.Forget()
			}
			frames := wire.Frames()
			if clear := bytes.Contains(frames, []byte(marker)); clear == tt.tunnel {
				t.Errorf("payload readable on the wire: %t, in a tunnel: %t", clear, tt.tunnel)
			}
			if len(frames) == 0 {
				t.Error("the capture is empty: it shows nothing")
			}
		})
	}
	rec := two.ZTunnel.WaitRecords(ctx, 1, inbound(a.Workload.Identity.String(), "b"))[0]
	if got, want := rec.Text("dst", "identity"), b.Workload.Identity.String(); got != want {
		t.Errorf("record names destination %q, want %q", got, want)
	}
	if got, want := rec.Text("bytes_sent"), fmt.Sprint(len(marker)); got != want {
		t.Errorf("record counts %s bytes from the client, want %s", got, want)
	}
}

// TestServiceAndDeadEndpoint: a Service's address leads to its endpoints, and
// one that is dead costs no connection.
func TestServiceAndDeadEndpoint(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	n := lab.Node("one")
	a := lab.MeshPod(ctx, n, "shop", "a")
	b := lab.MeshPod(ctx, n, "shop", "b")
	dead := lab.MeshPod(ctx, n, "shop", "dead") // nothing listens there
	echo(t, b.Host, 8080)
	vip := netip.MustParseAddr("10.96.1.1")
	lab.Service(mesh.Service{Key: mesh.ServiceKey{Namespace: "shop", Name: "web"}, Addresses: []netip.Addr{vip},
		Ports: []mesh.ServicePort{{Name: "http", Port: 80}}}, 8080, b, dead)
	until(ctx, t, func() error {
		// Until the Service is known its address leads nowhere.
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := talk(try, a.Host, netip.AddrPortFrom(vip, 80))
		return err
	})
	for range 30 {
		if _, err := talk(ctx, a.Host, netip.AddrPortFrom(vip, 80)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledZTunnel: while ztunnel is dead new connections wait in the backlog
// of the sockets that the node agent holds; none is lost.
func TestKilledZTunnel(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	n := lab.Node("one")
	a, b := lab.MeshPod(ctx, n, "shop", "a"), lab.MeshPod(ctx, n, "shop", "b")
	echo(t, b.Host, 8080)
	to := netip.AddrPortFrom(b.V4, 8080)
	if _, err := talk(ctx, a.Host, to); err != nil {
		t.Fatal(err)
	}
	n.ZTunnel.Kill()
	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for range cap(errs) {
		wg.Go(func() { _, err := talk(ctx, a.Host, to); errs <- err })
	}
	n.ZTunnel.Restart()
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Errorf("a connection begun while ztunnel was dead: %v", err)
		}
	}
}

// TestControllerGone: what is known goes on without a controller.
func TestControllerGone(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	n := lab.Node("one")
	a, b := lab.MeshPod(ctx, n, "shop", "a"), lab.MeshPod(ctx, n, "shop", "b")
	echo(t, b.Host, 8080)
	to := netip.AddrPortFrom(b.V4, 8080)
	if _, err := talk(ctx, a.Host, to); err != nil {
		t.Fatal(err)
	}
	lab.Control.Stop()
	for range 20 {
		if _, err := talk(ctx, a.Host, to); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelease: a pod that leaves the mesh talks plainly again, and nothing is
// left in its namespace.
func TestRelease(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	n := lab.Node("one")
	a, b := lab.MeshPod(ctx, n, "shop", "a"), lab.MeshPod(ctx, n, "shop", "b")
	echo(t, b.Host, 8080)
	to := netip.AddrPortFrom(b.V4, 8080)
	if _, err := talk(ctx, a.Host, to); err != nil {
		t.Fatal(err)
	}
	lab.Release(ctx, a)
	lab.Release(ctx, b)
	// The report comes first, so that peers stop using the tunnel, and the rules
	// go after it. No connection may be lost in between.
	wire := meshtest.Capture(t)
	for {
		wire.Forget()
		if _, err := talk(ctx, a.Host, to); err != nil {
			t.Fatalf("while pods leave the mesh: %v", err)
		}
		if bytes.Contains(wire.Frames(), []byte(marker)) {
			return // plain
		}
	}
}

// route of the waypoint scenario: a header chooses v2, /broken has no backend
// to go to, /tea goes to v1, and nothing else is routed.
func route(service mesh.ServiceKey, v1, v2 mesh.ServiceKey) routing.Listener {
	prefix := func(p string) routing.Match { return routing.Match{Path: routing.PathMatch{Value: p}} }
	beta := prefix("/tea")
	beta.Headers = []routing.ValueMatch{{Name: "x-beta", Value: "true"}}
	rule := func(i int, m routing.Match, b routing.Backend) routing.Rule {
		return routing.Rule{ID: routing.RuleID{Namespace: service.Namespace, Name: "web", Index: i}, Matches: []routing.Match{m}, Backends: []routing.Backend{b}}
	}
	return routing.Listener{Port: 80, Protocol: routing.ProtocolHTTP, Routed: true, Rules: []routing.Rule{
		rule(0, beta, routing.Backend{Service: v2, Port: 80, Weight: 1}),
		rule(1, prefix("/tea"), routing.Backend{Service: v1, Port: 80, Weight: 1}),
		rule(2, prefix("/broken"), routing.Backend{Service: v1, Port: 80, Weight: 1, Invalid: "backend does not exist"}),
		rule(3, prefix("/empty"), routing.Backend{Service: mesh.ServiceKey{Namespace: "shop", Name: "empty"}, Port: 80, Weight: 1}),
	}}
}

// TestWaypoint: the whole path of a request, with its records and spans.
func TestWaypoint(t *testing.T) {
	lab := meshtest.New(t)
	ctx := bounded(t)
	one, two := lab.Node("one"), lab.Node("two")
	client := lab.MeshPod(ctx, one, "shop", "client")
	pods := map[string]*meshtest.Pod{}
	for _, version := range []string{"v1", "v2"} {
		pods[version] = lab.MeshPod(ctx, two, "shop", version)
		serveHTTP(t, pods[version].Host, version)
	}
	waypoint, proxy := lab.Waypoint(one, "shop")
	web, v1, v2 := key("web"), key("v1"), key("v2")
	vip := netip.MustParseAddr("10.96.2.1")
	port := []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.AppHTTP}}
	speakers := []spiffeid.ID{meshtest.ServiceAccount(proxy.Namespace, proxy.Name)}
	lab.Service(mesh.Service{Key: v1, Ports: port, Speakers: speakers}, 8080, pods["v1"])
	lab.Service(mesh.Service{Key: v2, Ports: port, Speakers: speakers}, 8080, pods["v2"])
	lab.Service(mesh.Service{Key: key("empty"), Ports: port}, 8080)
	lab.Route(proxy, web, route(web, v1, v2))
	lab.Service(mesh.Service{Key: web, Addresses: []netip.Addr{vip}, Ports: port, Waypoints: []mesh.WaypointBinding{{Waypoint: proxy}}}, 8080, pods["v1"], pods["v2"])

	tests := []struct {
		path, beta string
		status     int
		body       string
	}{
		{"/tea", "", 200, "v1 " + client.V4.String()},
		{"/tea/green?x=1", "true", 200, "v2 " + client.V4.String()},
		{"/coffee", "", 404, ""},
		{"/broken", "", 500, ""},
		{"/empty", "", 503, ""},
	}
	until(ctx, t, func() error {
		status, _, err := get(ctx, client.Host, vip, "/coffee", "", "")
		if err == nil && status != 404 {
			err = fmt.Errorf("status %d: the waypoint is not in force", status)
		}
		return err
	})
	for _, tt := range tests {
		status, body, err := get(ctx, client.Host, vip, tt.path, tt.beta, "")
		if err != nil || status != tt.status || (tt.body != "" && body != tt.body) {
			t.Errorf("%s beta %q: %d %q (%v), want %d %q", tt.path, tt.beta, status, body, err, tt.status, tt.body)
		}
	}
	rec := waypoint.WaitRecords(ctx, 1, func(r meshtest.Record) bool { return r.Text("path") == "/tea" && r.Text("status") == "200" })[0]
	if got, want := rec.Text("src", "identity"), client.Workload.Identity.String(); got != want {
		t.Errorf("the waypoint's record names client %q, want %q", got, want)
	}
	spans(ctx, t, lab, client, vip)
	// A record is written when its connection has ended, and the waypoint keeps
	// those to the endpoints.
	waypoint.Stop()
	two.ZTunnel.WaitRecords(ctx, 1, inbound(client.Workload.Identity.String(), "v1"))
}

// spans sends a request that belongs to a sampled trace of the application's.
func spans(ctx context.Context, t *testing.T, lab *meshtest.Lab, client *meshtest.Pod, vip netip.Addr) {
	t.Helper()
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	if status, _, err := get(ctx, client.Host, vip, "/tea", "true", "00-"+trace+"-"+parent+"-01"); err != nil || status != 200 {
		t.Fatalf("traced request: %d, %v", status, err)
	}
	server := lab.Traces.Wait(ctx, "SERVER span of the waypoint", func(s meshtest.Span) bool {
		return s.TraceID() == trace && s.ParentID() == parent
	})
	if got := server.GetKind().String(); got != "SPAN_KIND_SERVER" {
		t.Errorf("span below the application's is %s, want SERVER", got)
	}
	for _, want := range []struct{ key, value string }{{"http.request.method", "GET"}, {"url.path", "/tea"}, {"url.scheme", "http"}} {
		if got := server.Attr(want.key); got != want.value {
			t.Errorf("SERVER span: %s is %q, want %q", want.key, got, want.value)
		}
	}
	out := lab.Traces.Wait(ctx, "CLIENT span of the waypoint", func(s meshtest.Span) bool {
		return s.TraceID() == trace && s.ParentID() == server.ID() && s.GetKind().String() == "SPAN_KIND_CLIENT"
	})
	lab.Traces.Wait(ctx, "span of the tunnel to the endpoint, in the trace or linked to it", func(s meshtest.Span) bool {
		return s.Service != server.Service && (s.ParentID() == out.ID() || out.LinksTo(s))
	})
	lab.Traces.Wait(ctx, "span of the tunnel from the client, linked", func(s meshtest.Span) bool {
		return s.Service != server.Service && server.LinksTo(s)
	})
}

func key(name string) mesh.ServiceKey { return mesh.ServiceKey{Namespace: "shop", Name: name} }

// serveHTTP answers with the version and the client's address.
func serveHTTP(t *testing.T, h *meshtest.Host, version string) {
	t.Helper()
	ln := h.Listen(t, 8080)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", version, host)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
}

// get sends one request on a connection of its own.
func get(ctx context.Context, from *meshtest.Host, vip netip.Addr, path, beta, traceparent string) (int, string, error) {
	c, err := from.Dial(ctx, netip.AddrPortFrom(vip, 80))
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web.shop"+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	for name, value := range map[string]string{"X-Beta": beta, "Traceparent": traceparent} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if err := req.Write(c); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// until tries again what the mesh needs a moment for.
func until(ctx context.Context, t *testing.T, try func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
