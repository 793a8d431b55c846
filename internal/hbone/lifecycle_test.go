package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/identity"
)

func TestDeadPooledConnectionIsReplaced(t *testing.T) {
	accepted := make(chan *Conn, 1)
	r := newRig(t, rigOptions{}, hold(accepted))
	c := r.dial()
	<-accepted
	r.cutServerEnds()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the first tunnel lives on")
	}
	c2 := r.dial() // the pool may or may not know yet that its connection is gone
	mustWrite(t, c2, "again")
	mustRead(t, <-accepted, "again")
	if got := r.accepted.Load(); got != 2 {
		t.Errorf("%d connections", got)
	}
}

// TestRetryWhenConnectionDiesBeforeTheAnswer: the pooled connection breaks
// after the CONNECT was sent.
func TestRetryWhenConnectionDiesBeforeTheAnswer(t *testing.T) {
	var mu sync.Mutex
	calls := 0
	var r *rig
	r = newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) {
		mu.Lock()
		calls++
		n := calls
		mu.Unlock()
		if n == 2 {
			r.cutServerEnds()
			<-ctx.Done()
			return
		}
		echo(ctx, tu)
	})
	r.dial().Close()
	c := r.dial()
	mustWrite(t, c, "x")
	mustRead(t, c, "x")
	if calls != 3 || c.Reused() {
		t.Errorf("%d calls, reused %v", calls, c.Reused())
	}
}

func TestOneConnectionAtATime(t *testing.T) {
	r := newRig(t, rigOptions{}, echo)
	dials := make(chan struct{}, 50)
	release := make(chan struct{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			req := r.request()
			req.DialTCP = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
				dials <- struct{}{}
				<-release
				return dialTCP(ctx, a)
			}
			c, err := r.dialer.Dial(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	<-dials
	close(release)
	wg.Wait()
	if len(dials) != 0 {
		t.Errorf("%d more dials", len(dials))
	}
}

func TestDialContext(t *testing.T) {
	r := newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) { <-ctx.Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.dialer.Dial(ctx, r.request()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	req := r.request()
	req.PoolKey = "slow"
	req.DialTCP = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var ce *ConnectError
	if _, err := r.dialer.Dial(ctx, req); !errors.As(err, &ce) {
		t.Errorf("no connection: %v", err)
	}
}

func TestServerDrain(t *testing.T) {
	accepted := make(chan *Conn, 1)
	r := newRig(t, rigOptions{}, hold(accepted))
	old := r.dial()
	peer := <-accepted
	r.server.Drain()
	eventually(t, "the client knows", func() bool {
		old.s.mu.Lock()
		defer old.s.mu.Unlock()
		return old.s.gone
	})
	mustWrite(t, old, "still here")
	mustRead(t, peer, "still here")
	mustWrite(t, peer, "so am I")
	mustRead(t, old, "so am I")
	old.Close()
	peer.Close()
	eventually(t, "Serve returned in good order", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.errs) == 1 && r.errs[0] == nil
	})
	if pools := r.dialer.Pools(); len(pools) != 0 {
		eventually(t, "the pool is empty", func() bool { return len(r.dialer.Pools()) == 0 })
	}
}

func TestFarewell(t *testing.T) {
	accepted := make(chan *Conn, 1)
	r := newRig(t, rigOptions{}, hold(accepted))
	old := r.dial()
	<-accepted
	r.server.Farewell(t.Context())
	old.s.mu.Lock()
	gone := old.s.gone
	old.s.mu.Unlock()
	if !gone {
		t.Error("the client does not know")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	newRawClient(r) // answers no ping
	eventually(t, "it is connected", func() bool {
		r.server.mu.Lock()
		defer r.server.mu.Unlock()
		return len(r.server.sessions) == 2
	})
	r.server.Farewell(ctx) // does not wait for it
}

// TestNoTunnelIsLostByDrain dials without a pause while servers drain: each
// CONNECT is answered by the one or the next.
func TestNoTunnelIsLostByDrain(t *testing.T) {
	r := newRig(t, rigOptions{}, echo)
	config := identity.ServerTLS(r.ca.Source(serverID), identity.MemberOf(td))
	var mu sync.Mutex
	current := NewServer(ServerOptions{})
	var serving sync.WaitGroup
	dial := func(_ context.Context, _ netip.AddrPort) (net.Conn, error) {
		a, b := tcpPair(t)
		mu.Lock()
		v := current
		mu.Unlock()
		serving.Go(func() { v.Serve(t.Context(), b, config, echo) })
		return a, nil
	}
	stop := make(chan struct{})
	var dialers sync.WaitGroup
	for range 4 {
		dialers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				req := r.request()
				req.DialTCP = dial
				c, err := r.dialer.Dial(t.Context(), req)
				if err != nil {
					t.Errorf("dial %d: %v", i, err)
					return
				}
				io.WriteString(c, "x")
				c.CloseWrite()
				if got, err := io.ReadAll(c); string(got) != "x" {
					t.Errorf("tunnel %d: %q, %v", i, got, err)
				}
				c.Close()
			}
		})
	}
	for range 20 {
		mu.Lock()
		old := current
		current = NewServer(ServerOptions{})
		mu.Unlock()
		old.Drain()
		eventually(t, "the old one is done", func() bool {
			old.mu.Lock()
			defer old.mu.Unlock()
			return len(old.sessions) == 0
		})
	}
	close(stop)
	dialers.Wait()
	r.dialer.Close()
	serving.Wait()
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestReleaseAndIdle(t *testing.T) {
	t.Run("released", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		c := r.dial()
		r.dialer.Release(func(key any) bool { return key == "key" })
		mustWrite(t, c, "x")
		mustRead(t, c, "x")
		if c2 := r.dial(); c2.Reused() {
			t.Error("a released connection is used again")
		}
		c.Close()
		eventually(t, "the old connection is closed", func() bool { return r.dialer.Pools()[0].Connections == 1 })
	})
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, rigOptions{dialer: DialerOptions{PingInterval: 5 * time.Millisecond, IdleTimeout: 20 * time.Millisecond}}, echo)
		r.dial().Close()
		eventually(t, "the pool is empty", func() bool { return len(r.dialer.Pools()) == 0 })
	})
	t.Run("closed", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		c := r.dial()
		r.dialer.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
			t.Errorf("tunnel: %v", err)
		}
		if _, err := r.dialer.Dial(t.Context(), r.request()); !errors.Is(err, ErrClosed) {
			t.Errorf("dial: %v", err)
		}
	})
}

// silent lets through what was asked for before it fell silent, then nothing,
// like a peer whose machine is gone.
type silent struct {
	net.Conn
	gone chan struct{}
}

func (s silent) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	select {
	case <-s.gone:
		// Nothing arrives any more, until the connection is closed here.
		for err == nil {
			_, err = s.Conn.Read(p)
		}
		return 0, err
	default:
		return n, err
	}
}

func TestKeepalive(t *testing.T) {
	r := newRig(t, rigOptions{dialer: DialerOptions{PingInterval: 10 * time.Millisecond, PingTimeout: 200 * time.Millisecond}}, echo)
	gone := make(chan struct{})
	req := r.request()
	req.DialTCP = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		c, err := dialTCP(ctx, a)
		return silent{c, gone}, err
	}
	c, err := r.dialer.Dial(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// It outlives its silence as long as pings are answered.
	c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, ErrKeepalive) {
		t.Fatal("given up too early")
	}
	c.SetReadDeadline(time.Time{})
	close(gone)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrKeepalive) {
		t.Errorf("got %v", err)
	}
}

func TestServeContext(t *testing.T) {
	ended := make(chan error, 1)
	ca := identity.NewFakeCA(td)
	a, b := tcpPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan *Conn, 1)
	go func() {
		ended <- NewServer(ServerOptions{}).Serve(ctx, b, identity.ServerTLS(ca.Source(serverID), identity.MemberOf(td)), hold(accepted))
	}()
	d := NewDialer(DialerOptions{})
	defer d.Close()
	c, err := d.Dial(t.Context(), Request{Authority: "a:1", PoolKey: 1,
		TLS:     identity.ClientTLS(ca.Source(clientID), identity.OneOf(serverID)),
		DialTCP: func(context.Context, netip.AddrPort) (net.Conn, error) { return a, nil }})
	if err != nil {
		t.Fatal(err)
	}
	<-accepted
	cancel()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel lives on")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	ca := identity.NewFakeCA(td)
	a, b := tcpPair(t)
	defer a.Close()
	v := NewServer(ServerOptions{HandshakeTimeout: 20 * time.Millisecond})
	err := v.Serve(t.Context(), b, identity.ServerTLS(ca.Source(serverID), identity.MemberOf(td)), echo)
	var ce *ConnectError
	if !errors.As(err, &ce) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
