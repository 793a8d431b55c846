package waypoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// TestPlain: through the waypoint to an endpoint outside the mesh; what the
// application sees.
func TestPlain(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	seen := make(chan *http.Request, 1)
	at := r.app(echo, func(w http.ResponseWriter, req *http.Request) {
		seen <- req
		io.WriteString(w, "hi")
	})
	r.table(echo, ruleTo("/", echo))
	resp, body := r.client("shop", false).get(echo, "/a/../b?c", "Towpath_Source.Identity: evil", "X-Forwarded-Client-Cert: evil", "X-Mine: 1")
	if resp.StatusCode != 200 || body != "hi" {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	req := <-seen
	if req.Host != "echo" || req.RequestURI != "/b?c" || req.Header.Get("X-Mine") != "1" {
		t.Errorf("application saw %s %s %v", req.Host, req.RequestURI, req.Header)
	}
	for name := range req.Header {
		if l := strings.ToLower(name); strings.HasPrefix(l, "towpath") || strings.HasPrefix(l, "x-forwarded") {
			t.Errorf("application saw %s: %v", name, req.Header[name])
		}
	}
	rec := r.logs.wait(t, 1)[0]
	src, _ := rec["src"].(map[string]any)
	for key, want := range map[string]any{
		"method": "GET", "authority": "echo", "path": "/b", "status": float64(200), "route": "HTTPRoute shop/route", "rule": "0",
		"backend": "shop/echo", "endpoint": at, "attempts": float64(1), "bytes_sent": float64(2),
	} {
		if rec[key] != want {
			t.Errorf("record: %s is %v, want %v", key, rec[key], want)
		}
	}
	if src["identity"] != idOf("shop", "client").String() {
		t.Errorf("record: source %v", src)
	}
}

// TestTunnelled: to an endpoint in the mesh, with the client's identity.
func TestTunnelled(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t)
		echo := r.service("echo")
		connects := r.meshApp(echo, "echo", "", say("mesh"))
		r.table(echo, ruleTo("/", echo))
		one, two := r.client("shop", h2), r.client("other", h2)
		one.header.Forwarded = `for="127.0.0.1:4711"`
		for range 3 {
			if resp, body := one.get(echo, "/"); resp.StatusCode != 200 || body != "mesh" {
				t.Fatalf("%d %q", resp.StatusCode, body)
			}
		}
		if _, body := two.get(echo, "/"); body != "mesh" {
			t.Fatalf("%q", body)
		}
		a, b := <-connects, <-connects
		if a.peer != idOf("shop", "waypoint") || a.header.Source != idOf("shop", "client").String() || a.header.Forwarded != `for="127.0.0.1:4711"` {
			t.Errorf("first CONNECT %+v", a)
		}
		if b.header.Source != idOf("other", "client").String() {
			t.Errorf("second CONNECT %+v: another client's request must not ride on it", b)
		}
		if n := len(connects); n != 0 {
			t.Errorf("%d more tunnels, want those of the two clients only", n)
		}
	}
}

// TestAnswers: what is answered without a backend, and recorded.
func TestAnswers(t *testing.T) {
	r := newRig(t)
	echo, empty := r.service("echo"), r.service("empty")
	r.app(echo, say("ok"))
	dead := r.service("dead")
	r.endpoint(dead, "127.9.9.9:9", nil)
	gone := mesh.ServiceKey{Namespace: "shop", Name: "gone"}
	invalid := ruleTo("/invalid", gone)
	invalid.Backends[0].Invalid = "BackendNotFound"
	zero := ruleTo("/zero", echo)
	zero.Backends[0].Weight = 0
	redirect := ruleTo("/redirect")
	redirect.Filters = []routing.Filter{{Redirect: &routing.Redirect{Code: 301, Hostname: "example.org"}}}
	badFilter := ruleTo("/filter", echo)
	badFilter.Filters = []routing.Filter{{Invalid: "unknown extension"}}
	r.table(echo, ruleTo("/ok", echo), ruleTo("/none"), invalid, zero, redirect, badFilter,
		ruleTo("/empty", empty), ruleTo("/dead", dead), ruleTo("/absent", gone))
	c, h2 := r.client("shop", false), r.client("shop", true)
	for i, tt := range []struct {
		path   string
		status int
		reason string
	}{
		{"/ok", 200, ""},
		{"/unmatched", 404, "no route matches"},
		{"/%00", 400, "NUL in the path"},
		{"/none", 500, "rule has no backend"},
		{"/zero", 500, "rule has no backend"},
		{"/invalid", 500, "invalid backend"},
		{"/filter", 500, "filter cannot be applied"},
		{"/empty", 503, "no ready endpoint"},
		{"/absent", 503, "backend does not exist"},
		{"/dead", 503, "cannot connect to the endpoint"},
		{"/redirect", 301, "redirect"},
	} {
		resp, _ := c.get(echo, tt.path)
		rec := r.logs.wait(t, i+1)[i]
		reason, _ := rec["reason"].(string)
		if resp.StatusCode != tt.status || rec["status"] != float64(tt.status) || reason != tt.reason {
			t.Errorf("%s: %d, record %v %q; want %d %q", tt.path, resp.StatusCode, rec["status"], reason, tt.status, tt.reason)
		}
	}
	if resp, _ := c.get(echo, "/redirect/x?y"); resp.Header.Get("Location") != "http://example.org/redirect/x?y" {
		t.Errorf("redirect to %q", resp.Header.Get("Location"))
	}
	for path, code := range map[string]string{"/unmatched": "12", "/invalid": "14", "/empty": "14"} {
		resp, _ := h2.get(echo, path, "Content-Type: application/grpc")
		if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != code {
			t.Errorf("gRPC %s: %d, %v; want status %s", path, resp.StatusCode, resp.Header, code)
		}
	}
}

// TestRefusedTunnels: a waypoint is no open relay.
func TestRefusedTunnels(t *testing.T) {
	r := newRig(t)
	echo, foreign, other := r.service("echo"), r.service("foreign"), r.service("other")
	app := r.app(echo, say("ok"))
	r.table(echo, ruleTo("/", echo))
	consumer := &routing.Table{Key: tableKey(foreign), ClientNamespace: "shop",
		Listeners: []routing.Listener{{Port: 80, Routed: true, Rules: []routing.Rule{ruleTo("/", echo)}}}}
	if err := r.proxy.OnTables([]*routing.Table{consumer}, nil); err != nil {
		t.Fatal(err)
	}
	asserting := r.client("shop", false)
	asserting.header.Source = idOf("shop", "victim").String()
	for _, tt := range []struct {
		name      string
		c         *client
		authority string
		status    int
	}{
		{"no table", r.client("shop", false), r.vip(other), 404},
		{"no Service", r.client("shop", false), app, 404},
		{"a name", r.client("shop", false), "echo.shop:80", 404},
		{"another port", r.client("shop", false), strings.Replace(r.vip(echo), ":80", ":81", 1), 404},
		{"consumer table, client from elsewhere", r.client("else", false), r.vip(foreign), 403},
		{"asserted identity", asserting, r.vip(echo), 403},
	} {
		_, err := tt.c.open(context.Background(), tt.authority)
		var status *hbone.StatusError
		if !errors.As(err, &status) || status.Status != tt.status {
			t.Errorf("%s: %v, want %d", tt.name, err, tt.status)
		}
	}
	for _, rec := range r.logs.wait(t, 6) {
		if rec["method"] != "CONNECT" || rec["reason"] == nil {
			t.Errorf("record %v", rec)
		}
	}
	if _, body := r.client("shop", false).get(foreign, "/"); body != "ok" {
		t.Errorf("consumer table: %q", body)
	}
}

// TestTableAfterTunnel: a tunnel that comes before the table waits for it.
func TestTableAfterTunnel(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	r.app(echo, say("ok"))
	done := make(chan error, 1)
	go func() {
		_, _, err := r.client("shop", false).try(echo, "/")
		done <- err
	}()
	r.table(echo, ruleTo("/", echo))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestByAddress: the authority of the tunnel chooses the Service, never Host.
func TestByAddress(t *testing.T) {
	r := newRig(t)
	v1, v2 := r.service("echo-v1"), r.service("echo-v2")
	r.app(v1, say("v1"))
	r.app(v2, say("v2"))
	r.table(v1, ruleTo("/", v1))
	r.table(v2, ruleTo("/", v2))
	req, _ := http.NewRequest("GET", "http://"+r.vip(v2)+"/", nil)
	req.Host = "echo-v1.shop"
	resp, err := r.client("shop", false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "v2" {
		t.Errorf("got %q", body)
	}
}

// TestPassThrough: a port without routes, and a connection whose table has gone.
func TestPassThrough(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r := newRig(t)
		echo := r.service("echo")
		r.app(echo, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, req.Proto) })
		tab := r.table(echo)
		tab.Listeners[0].Routed = false
		if err := r.proxy.OnTables([]*routing.Table{tab}, nil); err != nil {
			t.Fatal(err)
		}
		c := r.client("shop", h2)
		want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]
		if _, body := c.get(echo, "/"); body != want {
			t.Errorf("unrouted: %q, want %q", body, want)
		}
		if err := r.proxy.OnTables(nil, []routing.TableKey{tab.Key}); err != nil {
			t.Fatal(err)
		}
		if _, body := c.get(echo, "/"); body != want {
			t.Errorf("table gone: %q, want %q", body, want)
		}
		// The client was sent away: its next connection is refused here, and
		// would not have come in a cluster.
		if _, _, err := c.try(echo, "/"); err == nil {
			t.Error("a connection without a table is still in use")
		}
	}
}

func TestWeights(t *testing.T) {
	r := newRig(t)
	v1, v2, v3 := r.service("v1"), r.service("v2"), r.service("v3")
	var n1, n2 atomic.Int64
	r.app(v1, func(http.ResponseWriter, *http.Request) { n1.Add(1) })
	r.app(v2, func(http.ResponseWriter, *http.Request) { n2.Add(1) })
	rule := ruleTo("/", v1, v2, v3)
	rule.Backends[0].Weight, rule.Backends[1].Weight, rule.Backends[2].Weight = 70, 30, 0
	rule.Backends[2].Invalid = "BackendNotFound"
	r.table(v1, rule)
	c := r.client("shop", true)
	for range 500 {
		c.get(v1, "/")
	}
	if a, b := n1.Load(), n2.Load(); a+b != 500 || a < 345 || a > 355 {
		t.Errorf("%d and %d of 500, want 70 to 30", a, b)
	}
}

// TestSwapUnderLoad: tables are replaced all the time; no request fails.
func TestSwapUnderLoad(t *testing.T) {
	r := newRig(t)
	v1, v2 := r.service("v1"), r.service("v2")
	r.app(v1, say("v1"))
	r.meshApp(v2, "v2", "", say("v2"))
	r.table(v1, ruleTo("/", v1))
	stop := make(chan struct{})
	var group sync.WaitGroup
	var failed, done atomic.Int64
	for i := range 6 {
		c := r.client("shop", i%2 == 0)
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, body, err := c.try(v1, "/")
				if err != nil || resp.StatusCode != 200 || body != "v1" && body != "v2" {
					failed.Add(1)
					t.Log(err, body)
				}
				done.Add(1)
			}
		})
	}
	for i := 0; done.Load() < 1000; i++ {
		to := v1
		if i%2 == 0 {
			to = v2
		}
		r.table(v1, ruleTo("/", to), ruleTo(fmt.Sprintf("/x%d", i), v1))
	}
	close(stop)
	group.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed", n, done.Load())
	}
}

// TestBadTable: a table that cannot be compiled is refused, the old one stays,
// others are taken.
func TestBadTable(t *testing.T) {
	r := newRig(t)
	echo, other := r.service("echo"), r.service("other")
	r.app(echo, say("old"))
	r.table(echo, ruleTo("/", echo))
	bad := ruleTo("/", echo)
	bad.Matches[0].Path = routing.PathMatch{Kind: routing.PathRegex, Value: "("}
	err := r.proxy.OnTables([]*routing.Table{
		{Key: tableKey(echo), Listeners: []routing.Listener{{Port: 80, Routed: true, Rules: []routing.Rule{bad}}}},
		{Key: tableKey(other), Listeners: []routing.Listener{{Port: 80, Routed: true, Rules: []routing.Rule{ruleTo("/", echo)}}}},
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "shop/echo") || strings.Contains(err.Error(), "shop/other") {
		t.Errorf("OnTables: %v", err)
	}
	c := r.client("shop", false)
	if _, body := c.get(echo, "/"); body != "old" {
		t.Errorf("%q", body)
	}
	if _, body := c.get(other, "/"); body != "old" {
		t.Errorf("%q", body)
	}
}

// TestAnotherEndpoint: a connection that fails is tried elsewhere.
func TestAnotherEndpoint(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	r.app(echo, say("ok"))
	r.endpoint(echo, "127.9.9.9:9", nil)
	r.endpoint(echo, "127.9.9.8:9", nil)
	r.table(echo, ruleTo("/", echo))
	c := r.client("shop", false)
	for range 30 {
		if resp, body := c.get(echo, "/"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
}

// TestForeignIdentity: who answers at the address is not who should.
func TestForeignIdentity(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	r.meshApp(echo, "echo", "", say("mesh"))
	r.table(echo, ruleTo("/", echo))
	wl, _ := r.worlds.Load().Workload("uid-echo")
	impostor := *wl
	impostor.ID, impostor.Identity = "uid-2", idOf("shop", "expected")
	at := impostor.Addresses[0]
	r.worlds.Apply(mesh.Update{Workloads: []*mesh.Workload{&impostor}})
	for s := range r.worlds.Load().Slices() {
		dup := *s
		dup.Endpoints = []mesh.Endpoint{{Address: at, Workload: "uid-2", Ready: true, Serving: true}}
		r.worlds.Apply(mesh.Update{Slices: []*mesh.EndpointSlice{&dup}})
	}
	if resp, _ := r.client("shop", false).get(echo, "/"); resp.StatusCode != 503 {
		t.Errorf("%d, want 503", resp.StatusCode)
	}
}

func TestRetriesAndTimeouts(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	var calls atomic.Int64
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	r.app(echo, func(w http.ResponseWriter, req *http.Request) {
		n := calls.Add(1)
		body, _ := io.ReadAll(req.Body)
		switch {
		case strings.HasPrefix(req.URL.Path, "/flaky") && n < 3:
			w.WriteHeader(503)
		case strings.HasPrefix(req.URL.Path, "/slow") && n < 2, req.URL.Path == "/hang":
			select {
			case <-req.Context().Done():
			case <-release:
			}
		case req.URL.Path == "/half":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-req.Context().Done()
		default:
			fmt.Fprintf(w, "%d %s", n, body)
		}
	})
	flaky := ruleTo("/flaky", echo)
	flaky.Retry = &routing.Retry{Attempts: 2, Backoff: time.Millisecond, Codes: []int{503}}
	once := ruleTo("/flaky-once", echo)
	once.Retry = &routing.Retry{Attempts: 1, Backoff: time.Millisecond, Codes: []int{503}}
	slow := ruleTo("/slow", echo)
	slow.Timeouts.BackendRequest = 50 * time.Millisecond
	slow.Retry = &routing.Retry{Attempts: 1, Backoff: time.Millisecond}
	hang := ruleTo("/hang", echo)
	hang.Timeouts.Request = 50 * time.Millisecond
	half := ruleTo("/half", echo)
	half.Timeouts.Request = 50 * time.Millisecond
	r.table(echo, flaky, once, slow, hang, half)
	c := r.client("shop", false)
	post := func(path, body string) (int, string, error) {
		calls.Store(0)
		resp, err := c.Post("http://"+r.vip(echo)+path, "text/plain", strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(got), err
	}
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/flaky", "hello", 200, "3 hello"},
		{"/flaky-once", "hello", 503, ""},
		{"/flaky", strings.Repeat("x", 1<<20), 503, ""}, // too much to keep for another attempt
		{"/slow", "hello", 200, "2 hello"},
		{"/hang", "", 504, ""},
	} {
		status, got, err := post(tt.path, tt.body)
		if status != tt.status || got != tt.want || err != nil {
			t.Errorf("%s: %d %.20q %v, want %d %q", tt.path, status, got, err, tt.status, tt.want)
		}
	}
	// A timeout after the head cuts the response.
	if _, _, err := post("/half", ""); err == nil {
		t.Error("a response that was cut looks whole")
	}
}

func TestFilters(t *testing.T) {
	r := newRig(t)
	echo, copies := r.service("echo"), r.service("copies")
	r.app(echo, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%s %s %s %s", req.Host, req.URL.Path, req.Header.Get("X-Set"), body)
	})
	mirrored := make(chan string, 10)
	r.app(copies, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mirrored <- req.URL.Path + " " + string(body)
	})
	rule := ruleTo("/a", echo)
	rule.Filters = []routing.Filter{
		{RequestHeaders: &routing.HeaderChange{Set: []routing.Header{{Name: "X-Set", Value: "rule"}}}},
		{ResponseHeaders: &routing.HeaderChange{Add: []routing.Header{{Name: "X-Resp", Value: "rule"}}}},
		{Rewrite: &routing.Rewrite{Hostname: "rewritten", Path: &routing.PathChange{Prefix: true, Value: "/b"}}},
		{Mirror: &routing.Mirror{Service: copies, Port: 80, Numerator: 1, Denominator: 1}},
	}
	rule.Backends[0].Filters = []routing.Filter{
		{RequestHeaders: &routing.HeaderChange{Add: []routing.Header{{Name: "X-Set", Value: "backend"}}}},
		{ResponseHeaders: &routing.HeaderChange{Add: []routing.Header{{Name: "X-Resp", Value: "backend"}}}},
	}
	r.table(echo, rule)
	resp, err := r.client("shop", false).Post("http://"+r.vip(echo)+"/a/x", "text/plain", strings.NewReader("data"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "rewritten /b/x rule,backend data" || resp.Header.Get("X-Resp") != "backend,rule" {
		t.Errorf("%q, %v", body, resp.Header)
	}
	if got := <-mirrored; got != "/b/x data" {
		t.Errorf("mirrored %q", got)
	}
}

func TestTCP(t *testing.T) {
	r := newRig(t)
	db := r.service("db")
	ln, err := net.Listen("tcp", r.podAddr()+":0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "server first\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, "got "+line)
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	r.endpoint(db, ln.Addr().String(), nil)
	r.endpoint(db, "127.9.9.9:9", nil)
	if err := r.proxy.OnTables([]*routing.Table{{Key: tableKey(db), Listeners: []routing.Listener{{Port: 80, Protocol: routing.ProtocolTCP}}}}, nil); err != nil {
		t.Fatal(err)
	}
	c, err := r.client("shop", false).open(context.Background(), r.vip(db))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); line != "server first\n" {
		t.Fatalf("%q, %v", line, err)
	}
	io.WriteString(c, "x\n")
	if rest, err := io.ReadAll(br); string(rest) != "got x\n" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	c.Close()
	rec := r.logs.wait(t, 1)[0]
	if rec["direction"] != "waypoint" || rec["bytes_recv"] != float64(len("server first\ngot x\n")) || rec["bytes_sent"] != float64(2) {
		t.Errorf("record %v", rec)
	}
}

// TestDrain: requests under way are finished after the signal.
func TestDrain(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	entered, leave := make(chan struct{}), make(chan struct{})
	r.app(echo, func(w http.ResponseWriter, req *http.Request) {
		close(entered)
		<-leave
		io.WriteString(w, "done")
	})
	r.table(echo, ruleTo("/", echo))
	c := r.client("shop", false)
	type result struct {
		body string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		_, body, err := c.try(echo, "/")
		got <- result{body, err}
	}()
	<-entered
	r.proxy.Drain()
	close(leave)
	if res := <-got; res.body != "done" || res.err != nil {
		t.Errorf("%q, %v", res.body, res.err)
	}
}

func TestMetricsAndDump(t *testing.T) {
	r := newRig(t)
	echo := r.service("echo")
	r.app(echo, say("ok"))
	rule := ruleTo("/", echo)
	rule.Matches[0].Headers = []routing.ValueMatch{{Name: "v", Value: "1"}}
	tab := r.table(echo, rule)
	c := r.client("shop", false)
	c.get(echo, "/", "v: 1")
	c.get(echo, "/")
	r.logs.wait(t, 2)
	got := map[string]float64{}
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "towpath_waypoint_requests_total" {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] = m.Counter.GetValue()
		}
	}
	if got["2xx HTTPRoute echo shop"] != 1 || got["4xx none echo shop"] != 1 || len(got) != 2 {
		t.Errorf("requests %v", got)
	}
	dump := fmt.Sprint(r.proxy.Dump())
	for _, want := range []string{"shop/echo", "port 80: HTTP", "prefix /, header v=1", "backend shop/echo:80 weight 1"} {
		if !strings.Contains(dump, want) {
			t.Errorf("dump %s lacks %q", dump, want)
		}
	}
	r.proxy.OnTables(nil, []routing.TableKey{tab.Key})
	if families, _ = r.reg.Gather(); strings.Contains(fmt.Sprint(families), `"echo"`) {
		t.Error("series of a Service that is no longer served remain")
	}
}
