package waypoint

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func idOf(ns, sa string) spiffeid.ID {
	id, err := identity.ForServiceAccount(td, ns, sa)
	if err != nil {
		panic(err)
	}
	return id
}

// rig is a waypoint of namespace shop between clients that open tunnels and
// fake applications, all in this process.
type rig struct {
	t      *testing.T
	ca     *identity.FakeCA
	worlds mesh.Store
	proxy  *Proxy
	addr   netip.AddrPort
	spans  *tracetest.InMemoryExporter
	logs   *records
	reg    *prometheus.Registry

	mu     sync.Mutex
	remap  map[netip.AddrPort]string // where an address really listens
	podNum int
	vipNum int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, ca: identity.NewFakeCA(td), spans: tracetest.NewInMemoryExporter(), logs: &records{},
		reg: prometheus.NewRegistry(), remap: map[netip.AddrPort]string{}}
	tracing := telemetry.NewTracingTo(telemetry.TraceOptions{ServiceName: "waypoint", Sampling: 1}, r.spans)
	log := slog.New(slog.NewJSONHandler(r.logs, nil))
	r.proxy = New(Options{
		TrustDomain: td, Identity: r.ca.Source(idOf("shop", "waypoint")), Worlds: &r.worlds, Tracing: tracing,
		Registry: r.reg, Log: log, Server: &wire.StdServer{Log: log}, Client: wire.NewStdClient(wire.StdClientOptions{}),
		Dial: r.dial,
	})
	r.proxy.tableWait = 300 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = netip.MustParseAddrPort(ln.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.proxy.Serve(ctx, ln, 5*time.Second); err != nil {
			t.Error("serve:", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		r.proxy.Close()
		tracing.Shutdown(context.Background())
	})
	return r
}

func (r *rig) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	r.mu.Lock()
	real, ok := r.remap[to]
	r.mu.Unlock()
	if !ok {
		real = to.String()
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", real)
}

// service makes a Service with port 80 and an address.
func (r *rig) service(name string) mesh.ServiceKey {
	r.vipNum++
	key := mesh.ServiceKey{Namespace: "shop", Name: name}
	r.worlds.Apply(mesh.Update{Services: []*mesh.Service{{
		Key: key, Hostname: name + ".shop.svc.cluster.local",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(r.vipNum)})},
		Ports:     []mesh.ServicePort{{Name: "http", Port: 80}},
	}}})
	return key
}

func (r *rig) vip(key mesh.ServiceKey) string {
	svc, _ := r.worlds.Load().Service(key)
	return netip.AddrPortFrom(svc.Addresses[0], 80).String()
}

// endpoint adds an endpoint of a Service at an address that listens already.
func (r *rig) endpoint(key mesh.ServiceKey, at string, wl *mesh.Workload) {
	addr := netip.MustParseAddrPort(at)
	r.podNum++
	e := mesh.Endpoint{Address: addr.Addr(), Ready: true, Serving: true}
	u := mesh.Update{}
	if wl != nil {
		wl.Addresses = []netip.Addr{addr.Addr()}
		u.Workloads = []*mesh.Workload{wl}
		e.Workload = wl.ID
	}
	u.Slices = []*mesh.EndpointSlice{{
		Key: mesh.SliceKey{Namespace: key.Namespace, Name: fmt.Sprintf("%s-%d", key.Name, r.podNum)}, Service: key,
		Ports: []mesh.EndpointPort{{Name: "http", Port: addr.Port()}}, Endpoints: []mesh.Endpoint{e},
	}}
	r.worlds.Apply(u)
}

// podAddr returns a loopback address of its own for a pod.
func (r *rig) podAddr() string {
	r.podNum++
	return fmt.Sprintf("127.9.%d.%d", r.podNum/250, r.podNum%250+1)
}

// app runs an HTTP application that is an endpoint of the Service, in plain TCP.
func (r *rig) app(key mesh.ServiceKey, h http.HandlerFunc) string {
	at := r.listen(r.podAddr()+":0", h)
	r.endpoint(key, at, nil)
	return at
}

func (r *rig) listen(on string, h http.HandlerFunc) string {
	r.t.Helper()
	ln, err := net.Listen("tcp", on)
	if err != nil {
		r.t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { srv.Serve(ln); close(done) }()
	r.t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().String()
}

// connect is what a ztunnel saw of a CONNECT.
type connect struct {
	authority string
	peer      spiffeid.ID
	header    hbone.Header
}

// meshApp runs an application behind a fake ztunnel.
func (r *rig) meshApp(key mesh.ServiceKey, sa, traceresponse string, h http.HandlerFunc) (connects chan connect) {
	r.t.Helper()
	ip := r.podAddr()
	app := r.listen(ip+":0", h)
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.remap[netip.AddrPortFrom(netip.MustParseAddr(ip), mesh.PortHBONE)] = ln.Addr().String()
	r.mu.Unlock()
	id := idOf(key.Namespace, sa)
	connects = make(chan connect, 100)
	server := hbone.NewServer(hbone.ServerOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				server.Serve(ctx, c, identity.ServerTLS(r.ca.Source(id), identity.MemberOf(td)), func(ctx context.Context, t *hbone.Tunnel) {
					connects <- connect{t.Authority.String(), t.Peer, t.Header}
					up, err := net.Dial("tcp", t.Authority.String())
					if err != nil {
						t.Reject(503, err.Error())
						return
					}
					down, err := t.Accept(hbone.ResponseHeader{Traceresponse: traceresponse})
					if err != nil {
						up.Close()
						return
					}
					wire.Copy(ctx, down, up)
				})
			})
		}
	})
	r.t.Cleanup(func() { ln.Close(); cancel(); group.Wait() })
	r.endpoint(key, app, &mesh.Workload{ID: mesh.WorkloadID("uid-" + sa), Namespace: key.Namespace, Name: sa + "-0",
		ServiceAccount: sa, Identity: id, Tunnel: mesh.TunnelHBONE})
	return connects
}

// table publishes a routing table of the Service with rules for port 80.
func (r *rig) table(key mesh.ServiceKey, rules ...routing.Rule) *routing.Table {
	r.t.Helper()
	t := &routing.Table{
		Key: tableKey(key), Listeners: []routing.Listener{{Port: 80, Protocol: routing.ProtocolHTTP, Routed: true, Rules: rules}},
	}
	if err := r.proxy.OnTables([]*routing.Table{t}, nil); err != nil {
		r.t.Fatal(err)
	}
	return t
}

func tableKey(key mesh.ServiceKey) routing.TableKey {
	return routing.TableKey{Proxy: mesh.ProxyKey{Namespace: "shop", Name: "waypoint"},
		Parent: routing.Parent{Kind: routing.ParentService, Namespace: key.Namespace, Name: key.Name}}
}

func ruleTo(prefix string, backends ...mesh.ServiceKey) routing.Rule {
	r := routing.Rule{ID: routing.RuleID{Namespace: "shop", Name: "route"},
		Matches: []routing.Match{{Path: routing.PathMatch{Value: prefix}}}}
	for _, b := range backends {
		r.Backends = append(r.Backends, routing.Backend{Service: b, Port: 80, Weight: 1})
	}
	return r
}

// client is an application in a namespace, with its ztunnel.
type client struct {
	*http.Client
	tunnels *hbone.Dialer
	rig     *rig
	id      spiffeid.ID
	header  hbone.Header
}

func (r *rig) client(ns string, h2 bool) *client {
	c := &client{rig: r, tunnels: hbone.NewDialer(hbone.DialerOptions{}), id: idOf(ns, "client")}
	tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols), MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return c.open(ctx, addr) }}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	c.Client = &http.Client{Transport: tr, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r.t.Cleanup(func() { tr.CloseIdleConnections(); c.tunnels.Close() })
	return c
}

// open opens a tunnel to the waypoint for an authority.
func (c *client) open(ctx context.Context, authority string) (net.Conn, error) {
	conn, err := c.tunnels.Dial(ctx, hbone.Request{
		Authority: authority, Address: c.rig.addr, PoolKey: "waypoint",
		TLS:    identity.ClientTLS(c.rig.ca.Source(c.id), identity.OneOf(idOf("shop", "waypoint"))),
		Header: c.header,
	})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// get requests a path of the Service and returns status and body.
func (c *client) get(key mesh.ServiceKey, path string, headers ...string) (*http.Response, string) {
	c.rig.t.Helper()
	resp, body, err := c.try(key, path, headers...)
	if err != nil {
		c.rig.t.Fatal(err)
	}
	return resp, body
}

func (c *client) try(key mesh.ServiceKey, path string, headers ...string) (*http.Response, string, error) {
	req, err := http.NewRequest("GET", "http://"+c.rig.vip(key)+path, nil)
	if err != nil {
		return nil, "", err
	}
	req.Host = "echo"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// say answers with a name.
func say(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }
}

// records keeps the access records.
type records struct {
	mu   sync.Mutex
	list []map[string]any
	cond *sync.Cond
}

func (r *records) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(bytes.TrimSpace(p), &line); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if line["msg"] == "access" {
		r.list = append(r.list, line)
		if r.cond != nil {
			r.cond.Broadcast()
		}
	}
	return len(p), nil
}

// wait returns the records when there are n of them; it gives up with the test.
func (r *records) wait(t *testing.T, n int) []map[string]any {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cond == nil {
		r.cond = sync.NewCond(&r.mu)
	}
	late := false
	stop := time.AfterFunc(5*time.Second, func() { r.mu.Lock(); late = true; r.mu.Unlock(); r.cond.Broadcast() })
	defer stop.Stop()
	for len(r.list) < n && !late {
		r.cond.Wait()
	}
	if len(r.list) < n {
		t.Fatalf("%d records, want %d: %v", len(r.list), n, r.list)
	}
	return r.list
}

var _ upstream.Observer = (*exchange)(nil)
