package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a Handler that serves an echo on the pods' outbound listeners.
type recorder struct {
	mu      sync.Mutex
	pods    map[mesh.WorkloadID]*Pod
	events  []string
	changed chan struct{}
	refuse  map[mesh.WorkloadID]error
	hold    map[mesh.WorkloadID]chan struct{}
}

func newRecorder() *recorder {
	return &recorder{
		pods: map[mesh.WorkloadID]*Pod{}, changed: make(chan struct{}),
		refuse: map[mesh.WorkloadID]error{}, hold: map[mesh.WorkloadID]chan struct{}{},
	}
}

func (r *recorder) note(event string) {
	r.events = append(r.events, event)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) AddPod(ctx context.Context, p *Pod) error {
	r.mu.Lock()
	hold, refuse := r.hold[p.ID], r.refuse[p.ID]
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if refuse != nil {
		r.note("refuse " + string(p.ID))
		return refuse
	}
	if old := r.pods[p.ID]; old != nil {
		_ = old.Close()
	}
	r.pods[p.ID] = p
	r.note("add " + string(p.ID))
	return nil
}

func (r *recorder) RemovePod(_ context.Context, id mesh.WorkloadID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[id]; p != nil {
		_ = p.Close()
		delete(r.pods, id)
	}
	r.note("remove " + string(id))
}

func (r *recorder) Synced() { r.mu.Lock(); defer r.mu.Unlock(); r.note("synced") }
func (r *recorder) Drain()  { r.mu.Lock(); defer r.mu.Unlock(); r.note("drain") }

func (r *recorder) closeAll() {
	for _, p := range r.pods {
		_ = p.Close()
	}
}

// await waits until the events contain the wanted one, count times.
func (r *recorder) await(t *testing.T, event string, count int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		n := 0
		for _, e := range r.events {
			if e == event {
				n++
			}
		}
		events, changed := slices.Clone(r.events), r.changed
		r.mu.Unlock()
		if n >= count {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q x %d, got %v", event, count, events)
		}
	}
}

func (r *recorder) pod(id mesh.WorkloadID) *Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[id]
}

// makeTCP is a SocketMaker for the test's own network namespace.
func makeTCP(pod mesh.WorkloadID, family Family, count int) ([]int, error) {
	if pod == "broken" {
		return nil, errors.New("no such namespace")
	}
	domain := unix.AF_INET
	if family == IPv6 {
		domain = unix.AF_INET6
	}
	var fds []int
	for range count {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

type bench struct {
	t    *testing.T
	path string
	log  *slog.Logger
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, path: filepath.Join(t.TempDir(), "z.sock"), log: slog.New(slog.DiscardHandler)}
}

// server starts a server; stop ends it.
func (b *bench) server() (s *Server, stop func()) {
	s = NewServer(ServerOptions{Path: b.path, Sockets: makeTCP, Log: b.log})
	s.Complete()
	stop = b.start(func(ctx context.Context) {
		_ = s.Run(ctx)
		_ = s.Close()
	})
	return s, stop
}

func (b *bench) client(h Handler) (c *Client, stop func()) {
	c = NewClient(b.path, b.log)
	return c, b.start(func(ctx context.Context) { _ = c.Run(ctx, h) })
}

func (b *bench) start(f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	stop = func() { cancel(); <-done }
	b.t.Cleanup(stop)
	return stop
}

// offer makes an offer with one listener, and returns its address.
func (b *bench) offer(id mesh.WorkloadID) (Offer, string) {
	b.t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	o := Offer{ID: id, Namespace: "shop", Name: "web", ServiceAccount: "web", Listeners: []Listener{{Outbound, fd}}}
	return o, ln.Addr().String()
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *bench) add(s *Server, id mesh.WorkloadID) string {
	b.t.Helper()
	o, addr := b.offer(id)
	if err := s.Add(b.ctx(), o); err != nil {
		b.t.Fatal(err)
	}
	return addr
}

// accepts checks that a connection to addr reaches the handler's pod.
func accepts(t *testing.T, r *recorder, id mesh.WorkloadID, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ln := r.pod(id).Outbound[0].(*net.TCPListener)
	_ = ln.SetDeadline(time.Now().Add(5 * time.Second))
	got, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.RemoteAddr().String() != c.LocalAddr().String() {
		t.Fatalf("accepted %v, dialled from %v", got.RemoteAddr(), c.LocalAddr())
	}
}

func TestPodsAreHandedOver(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	r := newRecorder()
	_, stop := b.client(r)
	addr := b.add(s, "a")
	accepts(t, r, "a", addr)
	if p := r.pod("a"); p.Namespace != "shop" || p.Name != "web" || p.ServiceAccount != "web" {
		t.Fatalf("got %+v", p)
	}
	b.add(s, "b")
	if err := s.Remove(b.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	if r.pod("a") != nil {
		t.Fatal("Remove returned before the handler had removed the pod")
	}
	if _, err := net.DialTimeout("tcp", addr, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("dial after removal: %v", err)
	}
	stop()
	r.closeAll()
}

func TestNewcomerGetsSnapshotAndOlderIsDrained(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	old, young := newRecorder(), newRecorder()
	_, stopOld := b.client(old)
	old.await(t, "synced", 1)
	addr := b.add(s, "a")
	young.hold["a"] = make(chan struct{})
	_, stopYoung := b.client(young)
	for n, changed := s.Connected(); n < 2; n, changed = s.Connected() {
		<-changed
	}
	accepts(t, old, "a", addr)
	close(young.hold["a"])
	old.await(t, "drain", 1)
	young.await(t, "add a", 1)
	b.add(s, "b")
	young.await(t, "add b", 1)
	if old.pod("b") != nil {
		t.Fatal("a pod was added to the older ztunnel")
	}
	if err := s.Remove(b.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	old.await(t, "remove a", 1)
	young.await(t, "remove a", 1)
	stopOld()
	stopYoung()
	old.closeAll()
	young.closeAll()
}

func TestAddWaitsForProxy(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	o, addr := b.offer("a")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Add(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Add without a ztunnel: %v", err)
	}
	r := newRecorder()
	r.refuse["a"] = errors.New("no certificate")
	_, stop := b.client(r)
	r.await(t, "refuse a", 1)
	r.mu.Lock()
	delete(r.refuse, "a")
	r.mu.Unlock()
	// The first may still be told of the refusal.
	if s.Await(b.ctx(), "a") != nil {
		if err := s.Await(b.ctx(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	accepts(t, r, "a", addr)
	stop()
	r.closeAll()
}

func TestRefusalIsReported(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	r := newRecorder()
	r.refuse["a"] = errors.New("no certificate")
	b.client(r)
	r.await(t, "synced", 1)
	o, _ := b.offer("a")
	if err := s.Add(b.ctx(), o); err == nil || err.Error() != "no certificate" {
		t.Fatalf("got %v", err)
	}
}

func TestRemoveCancelsPendingAdd(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	r := newRecorder()
	r.hold["a"] = make(chan struct{})
	b.client(r)
	r.await(t, "synced", 1)
	o, _ := b.offer("a")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Add(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := s.Remove(b.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	r.await(t, "remove a", 1)
}

func TestAgentRestart(t *testing.T) {
	b := newBench(t)
	s, stopServer := b.server()
	r := newRecorder()
	c, stop := b.client(r)
	b.add(s, "stays")
	b.add(s, "goes")
	echo := listenEcho(t)
	dial(t, c, "stays", echo)
	stopServer()
	dial(t, c, "stays", echo) // from stock, while the agent is away
	if r.pod("goes") == nil {
		t.Fatal("a pod was removed because the agent went away")
	}
	s2 := NewServer(ServerOptions{Path: b.path, Sockets: makeTCP, Log: b.log})
	b.start(func(ctx context.Context) { _ = s2.Run(ctx); _ = s2.Close() })
	for n, changed := s2.Connected(); n < 1; n, changed = s2.Connected() {
		<-changed
	}
	addr := b.add(s2, "stays")
	accepts(t, r, "stays", addr)
	if r.pod("goes") == nil {
		t.Fatal("a pod was removed before the agent knew all of its own")
	}
	s2.Complete()
	r.await(t, "remove goes", 1)
	for range 3 * minBatch {
		dial(t, c, "stays", echo)
	}
	stop()
	r.closeAll()
}

func listenEcho(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(c, c.RemoteAddr())
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t *testing.T, c *Client, pod mesh.WorkloadID, to netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := c.DialFrom(ctx, pod, netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != to.String() {
		t.Fatalf("connected to %s", got)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDialFrom(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	r := newRecorder()
	c, stop := b.client(r)
	b.add(s, "a")
	echo := listenEcho(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				dial(t, c, "a", echo)
			}
		})
	}
	wg.Wait()
	conn, err := c.DialFrom(b.ctx(), "a", netip.MustParseAddrPort("127.0.0.9:0"), echo)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.9" {
		t.Fatalf("local address %s", got)
	}
	stop()
	if _, err := c.DialFrom(b.ctx(), "a", netip.AddrPort{}, echo); !errors.Is(err, ErrUnknownPod) {
		t.Fatalf("dial after the end: %v", err)
	}
	r.closeAll()
}

func TestDialFromFails(t *testing.T) {
	b := newBench(t)
	s, _ := b.server()
	r := newRecorder()
	c, stop := b.client(r)
	b.add(s, "a")
	b.add(s, "broken")
	refused := closedPort(t)
	full := fullBacklog(t)
	tests := []struct {
		name  string
		pod   mesh.WorkloadID
		local string
		to    netip.AddrPort
		want  error
	}{
		{"nobody listens", "a", "", refused, unix.ECONNREFUSED},
		{"no answer", "a", "", full, context.DeadlineExceeded},
		{"no such pod", "z", "", refused, ErrUnknownPod},
		{"not our address", "a", "203.0.113.1:0", refused, unix.EADDRNOTAVAIL},
		{"families differ", "a", "[::1]:0", refused, unix.EAFNOSUPPORT},
		{"agent cannot", "broken", "", refused, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			var local netip.AddrPort
			if tt.local != "" {
				local = netip.MustParseAddrPort(tt.local)
			}
			_, err := c.DialFrom(ctx, tt.pod, local, tt.to)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
	stop()
	r.closeAll()
}

func closedPort(t *testing.T) netip.AddrPort {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// fullBacklog returns an address whose SYNs get no answer: a listener whose
// queue is full.
func fullBacklog(t *testing.T) netip.AddrPort {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return addr
}

func TestServerRefuses(t *testing.T) {
	b := newBench(t)
	b.server()
	await := func() net.Conn {
		for {
			c, err := net.Dial("unixpacket", b.path)
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				return c
			}
		}
	}
	for _, first := range []string{`{"kind":"hello","versions":[7]}`, `{"kind":"ack"}`, `nonsense`, `{"kind":"hello"}`} {
		c := await()
		if _, err := c.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		for {
			buf := make([]byte, 1024)
			if _, err := c.Read(buf); err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s: %v", first, err)
				}
				break
			}
		}
		_ = c.Close()
	}
}
