package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/towpath-mesh/towpath/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	td       = spiffeid.RequireTrustDomainFromString("cluster.local")
	clientID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	serverID = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/cart")
	otherID  = spiffeid.RequireFromString("spiffe://cluster.local/ns/other/sa/thief")
)

// rig is a Server on loopback and a Dialer that speaks to it.
type rig struct {
	t        testing.TB
	ca       *identity.FakeCA
	server   *Server
	dialer   *Dialer
	addr     netip.AddrPort
	accepted atomic.Int64 // TCP connections

	mu    sync.Mutex
	conns []net.Conn // the server's ends
	errs  []error    // what Serve returned
}

type rigOptions struct {
	server  ServerOptions
	dialer  DialerOptions
	clients identity.Matcher // nil: everybody of the trust domain
}

func newRig(t testing.TB, o rigOptions, h Handler) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if o.clients == nil {
		o.clients = identity.MemberOf(td)
	}
	r := &rig{t: t, ca: identity.NewFakeCA(td), server: NewServer(o.server), dialer: NewDialer(o.dialer),
		addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	config := identity.ServerTLS(r.ca.Source(serverID), o.clients)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.accepted.Add(1)
			r.mu.Lock()
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			wg.Go(func() {
				err := r.server.Serve(ctx, c, config, h)
				r.mu.Lock()
				defer r.mu.Unlock()
				r.errs = append(r.errs, err)
			})
		}
	})
	t.Cleanup(func() {
		r.dialer.Close()
		ln.Close()
		cancel()
		wg.Wait()
	})
	return r
}

func (r *rig) request() Request {
	return Request{
		Authority: "10.1.2.3:8080",
		Address:   r.addr,
		TLS:       identity.ClientTLS(r.ca.Source(clientID), identity.OneOf(serverID)),
		PoolKey:   "key",
	}
}

func (r *rig) dial() *Conn {
	r.t.Helper()
	c, err := r.dialer.Dial(r.t.Context(), r.request())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// cutServerEnds breaks all TCP connections of the server.
func (r *rig) cutServerEnds() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

// echo sends back what comes, and ends when the client has.
func echo(_ context.Context, t *Tunnel) {
	c, err := t.Accept(ResponseHeader{})
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := io.Copy(c, c); err != nil {
		c.Reset()
		return
	}
	c.CloseWrite()
}

// hold accepts, tells the connection and waits until it is released.
func hold(accepted chan<- *Conn) Handler {
	return func(ctx context.Context, t *Tunnel) {
		c, err := t.Accept(ResponseHeader{})
		if err != nil {
			return
		}
		accepted <- c
		<-ctx.Done()
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func mustWrite(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func mustEOF(t testing.TB, r io.Reader) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read %d, %v; want the end", n, err)
	}
}

// eventually waits for a condition that another goroutine brings about.
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
