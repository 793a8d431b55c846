package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// guard stands between a client's connection and net/http, whose reading of
// HTTP/1 is more lenient than a proxy's may be. What h1Stream refuses never
// reaches net/http: a head is replaced by one that the handler knows for a
// refusal, so that it is answered in its turn and recorded; a chunk by one that
// net/http refuses.
type guard struct {
	net.Conn
	stream h1Stream
	in     []byte // read buffer
	taken  int    // of stream.out
	ended  bool   // refused: what follows is thrown away
	// badBody is set when the body under way was refused.
	badBody atomic.Bool

	mu     sync.Mutex
	wanted time.Time // the deadline that net/http has set
	headBy time.Time // ours, while a head is coming in
}

// refusedKey marks a head that stands for a refused one. The value is secret,
// so that no client can send it.
const refusedKey = "Towpath-Refused"

var refusedMark = rand.Text()

func newGuard(c net.Conn) *guard { return &guard{Conn: c, in: make([]byte, 4<<10)} }

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for g.taken == len(g.stream.out) {
		if g.stream.state == free || g.stream.state == inBody && !g.ended {
			return g.readThrough(p)
		}
		n, err := g.Conn.Read(g.in)
		if n > 0 && !g.ended {
			g.stream.out, g.taken = g.stream.out[:0], 0
			g.fed(g.stream.feed(g.in[:n]))
		}
		if err != nil && g.taken == len(g.stream.out) {
			return 0, err
		}
	}
	n := copy(p, g.stream.out[g.taken:])
	g.taken += n
	return n, nil
}

// readThrough reads what need not be looked at straight to where it is wanted.
func (g *guard) readThrough(p []byte) (int, error) {
	if g.stream.state == inBody && int64(len(p)) > g.stream.left {
		p = p[:g.stream.left]
	}
	n, err := g.Conn.Read(p)
	if g.stream.state == inBody {
		if g.stream.left -= int64(n); g.stream.left == 0 {
			g.stream.state = inHead
		}
	}
	return n, err
}

// fed acts on what feeding has found.
func (g *guard) fed(err error) {
	switch {
	case errors.Is(err, errRefusedHead):
		g.ended = true
		g.stream.out = append(g.stream.out, "GET / HTTP/1.1\r\nHost: refused\r\n"+refusedKey+": "+refusedMark+"\r\n\r\n"...)
	case err != nil:
		g.ended = true
		g.badBody.Store(true)
		g.stream.out = append(g.stream.out, "refused\r\n"...) // no chunk size
	}
	g.limitHead(!g.ended && g.stream.midHead())
}

// limitHead bounds the time of a head from its first byte to its last. net/http
// does not see a head before that is whole, and would allow it the time of an
// idle connection.
func (g *guard) limitHead(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on == !g.headBy.IsZero() {
		return
	}
	g.headBy = time.Time{}
	if on {
		g.headBy = time.Now().Add(HeaderTimeout)
	}
	_ = g.applyDeadline() // the read that follows fails if the connection has
}

// SetReadDeadline implements net.Conn.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted = t
	return g.applyDeadline()
}

// SetDeadline implements net.Conn.
func (g *guard) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.Conn.SetWriteDeadline(t)
}

func (g *guard) applyDeadline() error {
	t := g.wanted
	if !g.headBy.IsZero() && (t.IsZero() || g.headBy.Before(t)) {
		t = g.headBy
	}
	return g.Conn.SetReadDeadline(t)
}

// CloseWrite ends the direction towards the client.
func (g *guard) CloseWrite() error {
	if c, ok := g.Conn.(halfCloser); ok {
		return c.CloseWrite()
	}
	return nil
}

type guardKey struct{}

func withGuard(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guardKey{}, c)
}

func guardOf(r *http.Request) *guard {
	g, _ := r.Context().Value(guardKey{}).(*guard)
	return g
}

// refusedBy returns the head that the request stands for, if it does.
func refusedBy(r *http.Request) *h1Stream {
	g := guardOf(r)
	if g == nil || r.Header.Get(refusedKey) != refusedMark {
		return nil
	}
	return &g.stream
}
