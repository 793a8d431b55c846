package hbone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/identity"
)

func TestHeadersAndIdentities(t *testing.T) {
	want := Header{Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Tracestate: "a=b",
		Baggage: "k8s.namespace.name=shop", Forwarded: `for="10.0.0.1:99"`, Source: otherID.String()}
	seen := make(chan *Tunnel, 1)
	r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) {
		seen <- tu
		if c, err := tu.Accept(ResponseHeader{Baggage: "b", Traceresponse: "tr"}); err == nil {
			c.Close()
		}
	})
	req := r.request()
	req.Header = want
	c, err := r.dialer.Dial(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tu := <-seen
	if tu.Header != want || tu.Peer != clientID || tu.Authority.String() != req.Authority {
		t.Errorf("server saw %+v of %s for %s", tu.Header, tu.Peer, tu.Authority)
	}
	if got := c.Response(); got != (ResponseHeader{Baggage: "b", Traceresponse: "tr"}) || c.Peer() != serverID {
		t.Errorf("client saw %+v of %s", got, c.Peer())
	}
}

func TestHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) {
			c, _ := tu.Accept(ResponseHeader{})
			all, err := io.ReadAll(c)
			fmt.Fprintf(c, "got %s %v", all, err)
		})
		c := r.dial()
		mustWrite(t, c, "question")
		c.CloseWrite()
		mustRead(t, c, "got question <nil>")
		mustEOF(t, c)
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after CloseWrite: %v", err)
		}
	})
	t.Run("server first", func(t *testing.T) {
		got := make(chan string, 1)
		r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) {
			c, _ := tu.Accept(ResponseHeader{})
			io.WriteString(c, "220 hello")
			c.CloseWrite()
			all, err := io.ReadAll(c)
			got <- fmt.Sprintf("%s %v", all, err)
		})
		c := r.dial()
		mustRead(t, c, "220 hello")
		mustEOF(t, c)
		mustWrite(t, c, "late words")
		c.CloseWrite()
		if s := <-got; s != "late words <nil>" {
			t.Errorf("server read %q", s)
		}
	})
}

func TestReset(t *testing.T) {
	t.Run("by the server", func(t *testing.T) {
		r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) {
			c, _ := tu.Accept(ResponseHeader{})
			io.WriteString(c, "some")
			c.Reset()
		})
		c := r.dial()
		all, err := io.ReadAll(c)
		var reset *ResetError
		if string(all) != "some" || !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &reset) {
			t.Errorf("read %q, %v", all, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("by the client", func(t *testing.T) {
		got := make(chan error, 2)
		r := newRig(t, rigOptions{}, func(ctx context.Context, tu *Tunnel) {
			c, _ := tu.Accept(ResponseHeader{})
			_, err := io.Copy(io.Discard, c)
			got <- err
			<-ctx.Done()
			got <- ctx.Err()
		})
		c := r.dial()
		c.Reset()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server read: %v", err)
		}
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("handler's context: %v", err)
		}
	})
	t.Run("Close with bytes under way", func(t *testing.T) {
		got := make(chan string, 1)
		r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) {
			c, _ := tu.Accept(ResponseHeader{})
			all, err := io.ReadAll(c)
			got <- fmt.Sprintf("%s %v", all, err)
		})
		c := r.dial()
		mustWrite(t, c, "last words")
		c.Close()
		if s := <-got; s != "last words <nil>" {
			t.Errorf("server read %q", s)
		}
	})
}

func TestManyTunnelsShareConnections(t *testing.T) {
	const n = 250
	r := newRig(t, rigOptions{}, echo)
	var wg, open sync.WaitGroup
	open.Add(n)
	for i := range n {
		wg.Go(func() {
			c, err := r.dialer.Dial(t.Context(), r.request())
			open.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			open.Wait() // all at once
			msg := strings.Repeat(fmt.Sprint(i, " "), 2000)
			go func() { io.WriteString(c, msg); c.CloseWrite() }()
			if got, err := io.ReadAll(c); err != nil || string(got) != msg {
				t.Errorf("tunnel %d: %d bytes of %d, %v", i, len(got), len(msg), err)
			}
		})
	}
	wg.Wait()
	if got := r.accepted.Load(); got < 3 || got > 4 {
		t.Errorf("%d connections for %d tunnels", got, n)
	}
	r.dial()
	if pools := r.dialer.Pools(); len(pools) != 1 || pools[0].Tunnels != 1 || pools[0].Peer != serverID.String() {
		t.Errorf("pools: %+v", pools)
	}
}

// TestBulk moves more than all windows in both directions at once.
func TestBulk(t *testing.T) {
	const size = 40 << 20
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	for _, tc := range []struct {
		name string
		wrap func(*Conn) io.ReadWriter
	}{
		{"ReadFrom and WriteTo", func(c *Conn) io.ReadWriter { return c }},
		{"Read and Write", func(c *Conn) io.ReadWriter { return struct{ io.ReadWriter }{c} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{}, echo)
			c := r.dial()
			go func() {
				io.Copy(tc.wrap(c), struct{ io.Reader }{bytes.NewReader(data)})
				c.CloseWrite()
			}()
			h := sha256.New()
			n, err := io.Copy(h, tc.wrap(c))
			if err != nil || n != size || !bytes.Equal(h.Sum(nil), sum(data)) {
				t.Errorf("%d bytes came back of %d, %v", n, size, err)
			}
		})
	}
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// TestSlowReaderStopsItsSenderOnly fills the window of one tunnel and uses
// another of the same connection.
func TestSlowReaderStopsItsSenderOnly(t *testing.T) {
	accepted := make(chan *Conn, 2)
	r := newRig(t, rigOptions{}, hold(accepted))
	slow := r.dial()
	<-accepted
	slow.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := slow.Write(make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n != streamWindow {
		t.Fatalf("wrote %d, %v; want one window", n, err)
	}
	quick := r.dial()
	peer := <-accepted
	mustWrite(t, quick, "through")
	mustRead(t, peer, "through")
	if quick.s != slow.s {
		t.Error("not the same connection")
	}
}

func TestDeadlines(t *testing.T) {
	accepted := make(chan *Conn, 1)
	r := newRig(t, rigOptions{}, hold(accepted))
	c := r.dial()
	peer := <-accepted
	for _, when := range []time.Duration{-time.Second, 20 * time.Millisecond} {
		c.SetReadDeadline(time.Now().Add(when))
		_, err := c.Read(make([]byte, 1))
		var netErr net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("read past its deadline: %v", err)
		}
	}
	c.SetDeadline(time.Time{})
	mustWrite(t, peer, "still alive")
	mustRead(t, c, "still alive")
	c.SetDeadline(time.Now().Add(-time.Second))
	if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write past its deadline: %v", err)
	}
}

func TestRefusedStatuses(t *testing.T) {
	for _, tc := range []struct {
		status int
		is     error
	}{
		{http.StatusBadRequest, nil},
		{http.StatusUnauthorized, ErrDenied},
		{http.StatusForbidden, ErrDenied},
		{http.StatusServiceUnavailable, ErrUnavailable},
	} {
		t.Run(fmt.Sprint(tc.status), func(t *testing.T) {
			r := newRig(t, rigOptions{}, func(_ context.Context, tu *Tunnel) { tu.Reject(tc.status, "because\r\nit is") })
			for range 2 { // the second on the same connection
				_, err := r.dialer.Dial(t.Context(), r.request())
				var se *StatusError
				if !errors.As(err, &se) || *se != (StatusError{tc.status, "because??it is"}) {
					t.Fatalf("got %v", err)
				}
				if tc.is != nil && !errors.Is(err, tc.is) {
					t.Errorf("%v is not %v", err, tc.is)
				}
			}
			if r.accepted.Load() != 1 {
				t.Errorf("%d connections", r.accepted.Load())
			}
		})
	}
	t.Run("no decision", func(t *testing.T) {
		r := newRig(t, rigOptions{}, func(context.Context, *Tunnel) {})
		if _, err := r.dialer.Dial(t.Context(), r.request()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("bad authority", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		req := r.request()
		req.Authority = "user@10.0.0.1:80"
		var se *StatusError
		if _, err := r.dialer.Dial(t.Context(), req); !errors.As(err, &se) || se.Status != http.StatusBadRequest {
			t.Errorf("got %v", err)
		}
	})
}

func TestWrongIdentities(t *testing.T) {
	t.Run("server is not the one expected", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		req := r.request()
		req.TLS = identity.ClientTLS(r.ca.Source(clientID), identity.OneOf(otherID))
		_, err := r.dialer.Dial(t.Context(), req)
		wantTLSError(t, err)
		if !errors.Is(err, identity.ErrNotExpected) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("client is not let in", func(t *testing.T) {
		r := newRig(t, rigOptions{clients: identity.OneOf(otherID)}, echo)
		_, err := r.dialer.Dial(t.Context(), r.request())
		wantTLSError(t, err)
	})
	t.Run("client of another authority", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		req := r.request()
		req.TLS = identity.ClientTLS(identity.NewFakeCA(td).Source(clientID), identity.OneOf(serverID))
		_, err := r.dialer.Dial(t.Context(), req)
		wantTLSError(t, err)
	})
	t.Run("nobody listens", func(t *testing.T) {
		r := newRig(t, rigOptions{}, echo)
		req := r.request()
		ln, _ := net.Listen("tcp", "127.0.0.1:0")
		req.Address = ln.Addr().(*net.TCPAddr).AddrPort()
		ln.Close()
		var ce *ConnectError
		if _, err := r.dialer.Dial(t.Context(), req); !errors.As(err, &ce) || ce.Stage != StageConnect || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v", err)
		}
		if pools := r.dialer.Pools(); len(pools) != 0 {
			t.Errorf("pool keeps %+v", pools)
		}
	})
}

func wantTLSError(t *testing.T, err error) {
	t.Helper()
	var ce *ConnectError
	if !errors.As(err, &ce) || ce.Stage != StageTLS {
		t.Errorf("got %v, want a TLS error", err)
	}
}
