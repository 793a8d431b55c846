package ztunnel

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a cluster's network on loopback: it knows which listener stands
// for which address, and where redirected connections wanted to go. It is the
// Sockets of all ztunnels of a test.
type network struct {
	t testing.TB

	mu        sync.Mutex
	told      *sync.Cond // original has grown
	listeners map[netip.AddrPort]net.Listener
	original  map[netip.AddrPort]netip.AddrPort // client's address -> destination
	dials     []dial
	badLocal  netip.Addr // DialFrom cannot bind to it
}

type dial struct {
	pod           mesh.WorkloadID
	local, remote netip.AddrPort
}

func newNetwork(t testing.TB) *network {
	n := &network{t: t, listeners: map[netip.AddrPort]net.Listener{}, original: map[netip.AddrPort]netip.AddrPort{}}
	n.told = sync.NewCond(&n.mu)
	return n
}

func (n *network) listen(addr string) net.Listener {
	n.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[netip.MustParseAddrPort(addr)] = ln
	return ln
}

func (n *network) DialFrom(ctx context.Context, pod mesh.WorkloadID, local, remote netip.AddrPort) (*net.TCPConn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, dial{pod, local, remote})
	ln := n.listeners[remote]
	bad := n.badLocal.IsValid() && n.badLocal == local.Addr()
	n.mu.Unlock()
	switch {
	case bad:
		return nil, syscall.EADDRNOTAVAIL
	case ln == nil:
		return nil, syscall.ECONNREFUSED
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// OriginalDst waits for redirect to have told, which can do so only once the
// connection exists.
func (n *network) OriginalDst(c *net.TCPConn) (netip.AddrPort, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if dst, ok := n.original[addrPort(c.RemoteAddr())]; ok {
			return dst, nil
		}
		n.told.Wait()
	}
}

// redirect connects to the listener as a client whose connection to dst was
// redirected there.
func (n *network) redirect(listener, dst string) *net.TCPConn {
	n.t.Helper()
	n.mu.Lock()
	ln := n.listeners[netip.MustParseAddrPort(listener)]
	n.mu.Unlock()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	n.mu.Lock()
	n.original[addrPort(c.LocalAddr())] = netip.MustParseAddrPort(dst)
	n.mu.Unlock()
	n.told.Broadcast()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func (n *network) lastDial() dial {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[len(n.dials)-1]
}

// serve runs an application at an address.
func (n *network) serve(addr string, app func(*net.TCPConn)) {
	n.t.Helper()
	ln := n.listen(addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				app(c.(*net.TCPConn))
			})
		}
	})
	n.t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
}

func echoApp(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// lines is a log of which the test reads the access records.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

type record struct {
	Msg, Direction, Protocol, Reason, Error string
	NextHop                                 string `json:"next_hop"`
	TraceID                                 string `json:"trace_id"`
	Sent                                    int    `json:"bytes_sent"`
	Received                                int    `json:"bytes_recv"`
	Src, Dst                                struct{ Addr, Workload, Namespace, Identity, Service string }
}

func (l *lines) records(t testing.TB) (out []record) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Msg == "access" {
			out = append(out, r)
		}
	}
	return out
}

// identities is a certificate manager without a controller.
type identities struct{ ca *identity.FakeCA }

func (f identities) Hold(_ context.Context, _ string, id spiffeid.ID) (identity.Source, error) {
	return f.ca.Source(id), nil
}
func (f identities) Release(string) {}

// node is one ztunnel.
type node struct {
	*Proxy
	t       testing.TB
	net     *network
	log     *lines
	reg     *prometheus.Registry
	synced  chan struct{}
	drained bool
}

// rig is a cluster: a network, a mesh, an authority, and ztunnels.
type rig struct {
	t     testing.TB
	net   *network
	ca    *identity.FakeCA
	world *mesh.Store
	spans *tracetest.InMemoryExporter
}

func newRig(t testing.TB) *rig {
	return &rig{t: t, net: newNetwork(t), ca: identity.NewFakeCA(td), world: &mesh.Store{}, spans: tracetest.NewInMemoryExporter()}
}

func (r *rig) tracing() *telemetry.Tracing {
	tr := telemetry.NewTracingTo(telemetry.TraceOptions{Sampling: 1}, keep{r.spans})
	r.t.Cleanup(func() { tr.Shutdown(context.Background()) })
	return tr
}

// awaitSpans waits for that many spans: they end a little after what the
// connection's client can see.
func (r *rig) awaitSpans(n int) tracetest.SpanStubs {
	r.t.Helper()
	eventually(r.t, "the spans", func() bool { return len(r.spans.GetSpans()) >= n })
	return r.spans.GetSpans()
}

// keep keeps spans when the tracing that made them shuts down.
type keep struct{ *tracetest.InMemoryExporter }

func (keep) Shutdown(context.Context) error { return nil }

var _ sdktrace.SpanExporter = keep{}

// node starts a ztunnel that has its config; its connections end with the test.
func (r *rig) node(drain time.Duration) *node {
	n := r.idleNode(drain)
	close(n.synced)
	return n
}

func (r *rig) idleNode(drain time.Duration) *node {
	n := &node{t: r.t, net: r.net, log: &lines{}, reg: prometheus.NewRegistry(), synced: make(chan struct{})}
	n.Proxy = NewProxy(Options{
		TrustDomain: td, Worlds: r.world, Identities: identities{r.ca}, Sockets: r.net,
		Tracer: r.tracing().Tracer(), Log: slog.New(slog.NewJSONHandler(n.log, &slog.HandlerOptions{Level: slog.LevelInfo})), Registry: n.reg,
		ConfigSynced: n.synced, OnDrain: func() { n.drained = true }, Drain: drain,
	})
	r.t.Cleanup(func() { n.Shutdown(0) })
	return n
}

// add enrols a pod on the node, with listeners in the network.
func (n *node) add(wl *mesh.Workload) *handoff.Pod {
	n.t.Helper()
	p := n.handoff(wl)
	if err := n.AddPod(n.t.Context(), p); err != nil {
		n.t.Fatal(err)
	}
	return p
}

func (n *node) handoff(wl *mesh.Workload) *handoff.Pod {
	at := func(port string) []net.Listener {
		return []net.Listener{n.net.listen(wl.Addresses[0].String() + ":" + port)}
	}
	return &handoff.Pod{ID: wl.ID, Namespace: wl.Namespace, Name: wl.Name, ServiceAccount: wl.ServiceAccount,
		Outbound: at("15001"), Plaintext: at("15006"), HBONE: at("15008")}
}

// records waits for the number of access records and for no more than that.
func (n *node) records(count int) []record {
	n.t.Helper()
	eventually(n.t, "the access records", func() bool { return len(n.log.records(n.t)) >= count })
	got := n.log.records(n.t)
	if len(got) != count {
		n.t.Fatalf("%d records, want %d: %+v", len(got), count, got)
	}
	return got
}

// recordWhere waits for count records, which come in no order since each
// connection writes its own, and returns the first that is meant.
func (n *node) recordWhere(count int, meant func(record) bool) record {
	n.t.Helper()
	got := n.records(count)
	for _, r := range got {
		if meant(r) {
			return r
		}
	}
	n.t.Fatalf("no such record among %+v", got)
	return record{}
}

func (n *node) wantMetric(name string, want float64) {
	n.t.Helper()
	got := 0.0
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "towpath_ztunnel_"+name {
			continue
		}
		for _, m := range f.Metric {
			got += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if got != want {
		n.t.Errorf("%s = %v, want %v", name, got, want)
	}
}

// wantLabels compares the label values, in the order of their names, of the only
// series of a metric.
func (n *node) wantLabels(name string, want ...string) {
	n.t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	var got [][]string
	for _, f := range families {
		if f.GetName() != "towpath_ztunnel_"+name {
			continue
		}
		for _, m := range f.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			got = append(got, values)
		}
	}
	if len(got) != 1 || !slices.Equal(got[0], want) {
		n.t.Errorf("%s has %q, want %q", name, got, want)
	}
}

func mustWrite(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func addrPortOf(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
