package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
)

// Conn is one tunnelled connection. It is a net.Conn with the half-close of a
// *net.TCPConn: after CloseWrite the peer reads io.EOF and may go on writing.
//
// What TCP says with RST the tunnel says with RST_STREAM: after the peer's
// Reset, Read and Write fail with a *ResetError, which is a
// syscall.ECONNRESET. Bytes that came before it can still be read.
type Conn struct {
	s        *session
	id       uint32
	reused   bool
	response ResponseHeader
	// answered is closed when the CONNECT has its answer or will have none.
	answered chan struct{}
	status   int
	// cancel ends the context of the handler, server side.
	cancel context.CancelFunc

	// Guarded by s.mu, which the conditions use.
	readable, writable sync.Cond
	queue              queue
	recvErr            error // after the queue is empty: io.EOF, or why not
	sendErr            error // set once writing has ended
	recvWindow         int64
	sendWindow         int64
	consumed           int64
	isBlocked          bool // is in s.blocked
	readBy, writeBy    deadline
}

func newConn(s *session, id uint32) *Conn {
	c := &Conn{s: s, id: id, recvWindow: streamWindow, sendWindow: s.peerWindow}
	c.readable.L, c.writable.L = &s.mu, &s.mu
	s.streams[id] = c
	return c
}

// Response returns what the server said beside accepting; zero at the server.
func (c *Conn) Response() ResponseHeader { return c.response }

// Peer returns the identity of who is at the other end of the TLS connection.
func (c *Conn) Peer() spiffeid.ID { return c.s.peer }

// TLS returns the state of the TLS connection.
func (c *Conn) TLS() tls.ConnectionState { return c.s.state }

// Reused reports whether the TLS connection existed before the tunnel.
func (c *Conn) Reused() bool { return c.reused }

// LocalAddr returns this side's address of the TLS connection.
func (c *Conn) LocalAddr() net.Addr { return c.s.low.LocalAddr() }

// RemoteAddr returns the peer's address of the TLS connection.
func (c *Conn) RemoteAddr() net.Addr { return c.s.low.RemoteAddr() }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.awaitReadable(); err != nil {
		return 0, err
	}
	n := c.queue.read(p)
	c.credit(n)
	return n, nil
}

// awaitReadable waits until the queue has bytes.
func (c *Conn) awaitReadable() error {
	for c.queue.size == 0 || c.readBy.passed {
		if c.readBy.passed {
			return os.ErrDeadlineExceeded
		}
		if c.recvErr != nil {
			return c.recvErr
		}
		c.readable.Wait()
	}
	return nil
}

// credit gives the peer back the windows that read bytes had taken, in steps.
func (c *Conn) credit(n int) {
	c.consumed += int64(n)
	if c.consumed >= streamWindow/4 && c.recvErr == nil {
		c.s.appendWindow(c.id, c.consumed)
		c.recvWindow += c.consumed
		c.consumed = 0
	}
	c.s.creditConn(n)
}

func (s *session) creditConn(n int) {
	s.consumed += int64(n)
	if s.consumed >= connWindow/8 {
		s.appendWindow(0, s.consumed)
		s.recvWindow += s.consumed
		s.consumed = 0
	}
}

// Write implements net.Conn. It returns when the bytes are on their way to the
// socket, not when the peer has them.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for {
		room, err := c.awaitRoom(len(p))
		if err != nil || len(p) == 0 {
			return n, err
		}
		c.s.appendData(c.id, p[:room], false)
		c.sendWindow -= int64(room)
		c.s.sendWindow -= int64(room)
		n += room
		if p = p[room:]; len(p) == 0 {
			return n, nil
		}
	}
}

// awaitRoom waits until some of want bytes may be sent, and says how many.
func (c *Conn) awaitRoom(want int) (int, error) {
	s := c.s
	for {
		if c.sendErr != nil {
			return 0, c.sendErr
		}
		if c.writeBy.passed {
			return 0, os.ErrDeadlineExceeded
		}
		room := min(int64(want), c.sendWindow, s.sendWindow, int64(min(s.peerFrame, maxWriteFrame)), int64(maxPending-len(s.pending)))
		if room > 0 || want == 0 {
			return int(room), nil
		}
		if c.sendWindow > 0 && !c.isBlocked {
			c.isBlocked = true
			s.blocked = append(s.blocked, c)
		}
		c.writable.Wait()
	}
}

// CloseWrite tells the peer that no more bytes follow. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.sendErr != nil {
		return c.sendErr
	}
	c.endSending()
	return nil
}

func (c *Conn) endSending() {
	c.s.appendData(c.id, nil, true)
	c.sendErr = net.ErrClosed
	c.writable.Broadcast()
	if c.recvErr != nil {
		c.s.forget(c)
	}
}

// Close ends both directions. Bytes already written still reach the peer; what
// it sends from now on is refused, as a closed TCP socket does.
func (c *Conn) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.sendErr == nil {
		c.endSending()
	}
	c.endLocally(http2.ErrCodeCancel)
	return nil
}

// Reset ends both directions abruptly: the peer's Read and Write fail with a
// *ResetError (RFC 9113 section 8.5: a TCP error is a CONNECT_ERROR).
func (c *Conn) Reset() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.endLocally(http2.ErrCodeConnect)
}

// endLocally takes the stream out of the session; the peer is told unless both
// directions had ended.
func (c *Conn) endLocally(code http2.ErrCode) {
	if c.s.streams[c.id] == c {
		c.s.appendReset(c.id, code)
		c.s.forget(c)
	}
	c.recvErr, c.sendErr = net.ErrClosed, net.ErrClosed
	c.discard()
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// discard drops what was received and not read.
func (c *Conn) discard() {
	n := c.queue.size
	c.queue.clear()
	if c.s.err == nil {
		c.s.creditConn(n)
	}
}

// lost is called when the peer or the session has ended the stream. What was
// received can still be read. The caller takes it out of the session.
func (c *Conn) lost(err error) {
	if c.recvErr == nil {
		c.recvErr = err
	}
	if c.sendErr == nil {
		c.sendErr = err
	}
	c.answer(0)
	if c.cancel != nil {
		c.cancel()
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// finish is called when the peer has ended its direction.
func (c *Conn) finish() {
	c.recvErr = io.EOF
	c.readable.Broadcast()
	if c.sendErr != nil {
		c.s.forget(c)
	}
}

// answer records the status of the answer to the CONNECT, once; 0 for none.
func (c *Conn) answer(status int) {
	if c.answered == nil {
		return
	}
	select {
	case <-c.answered:
	default:
		c.status = status
		close(c.answered)
	}
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t) // both return nil
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.readBy.set(t, &c.readable)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.writeBy.set(t, &c.writable)
	return nil
}

// deadline wakes a waiter at a time. Guarded by the lock of its condition.
type deadline struct {
	passed bool
	timer  *time.Timer
}

func (d *deadline) set(t time.Time, waiter *sync.Cond) {
	d.stop()
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		waiter.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		waiter.L.Lock()
		defer waiter.L.Unlock()
		if d.timer == timer {
			d.passed = true
			waiter.Broadcast()
		}
	})
	d.timer = timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.passed, d.timer = false, nil
}
