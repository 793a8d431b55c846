package hbone

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// ServerOptions adjust a Server. Zero values mean the defaults.
type ServerOptions struct {
	// HandshakeTimeout bounds the TLS handshake and the HTTP/2 preface; 5 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection without tunnels is kept; 15 min,
	// longer than clients keep them.
	IdleTimeout time.Duration
	// PingInterval is the silence after which the peer is pinged, PingTimeout
	// the time it has to answer; 10 s and 20 s.
	PingInterval, PingTimeout time.Duration
}

// Server takes tunnels on connections that somebody else has accepted. One
// Server is one thing to drain: a pod, or a whole waypoint.
type Server struct {
	opts ServerOptions

	mu       sync.Mutex
	draining bool
	sessions map[*session]struct{}
}

// NewServer returns a Server without connections.
func NewServer(o ServerOptions) *Server {
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 5*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 15*time.Minute)
	o.PingInterval = cmp.Or(o.PingInterval, 10*time.Second)
	o.PingTimeout = cmp.Or(o.PingTimeout, 20*time.Second)
	return &Server{opts: o, sessions: map[*session]struct{}{}}
}

// Handler is called for each tunnel, in a goroutine of its own. Its context
// ends when the tunnel is reset or its connection lost, or with Serve's. It has
// to Accept or Reject the tunnel; when it returns, a Conn that is still open is
// closed.
type Handler func(ctx context.Context, t *Tunnel)

// Serve speaks HBONE on one TCP connection, which it owns, and returns when the
// connection has ended and all handlers have returned. config is a
// configuration of package identity. When ctx ends the connection is cut; for a
// graceful end see Drain. The error tells why the connection ended, nil if it
// was in good order; a *ConnectError means that it never came to tunnels.
func (v *Server) Serve(ctx context.Context, raw net.Conn, config *tls.Config, h Handler) error {
	s, err := v.handshake(ctx, raw, config)
	if err != nil {
		_ = raw.Close() // the handshake's error is the one to tell
		return &ConnectError{Stage: StageTLS, Err: err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	s.accept = func(c *Conn, f *http2.MetaHeadersFrame) {
		tunnelCtx, cancel := context.WithCancel(ctx)
		c.cancel = cancel
		t := newTunnel(c, f)
		handlers.Go(func() { t.handle(tunnelCtx, h) })
	}
	v.add(s)
	defer v.remove(s)
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	err = s.run()
	cancel()
	if isOrderly(err) {
		return nil
	}
	return err
}

func isOrderly(err error) bool {
	return errors.Is(err, ErrClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (v *Server) handshake(ctx context.Context, raw net.Conn, config *tls.Config) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, v.opts.HandshakeTimeout)
	defer cancel()
	low := newBatchConn(raw)
	conn := tls.Server(low, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	peer, err := peerOf(conn)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, readBuffer)
	if err := readPreface(ctx, raw, r); err != nil {
		return nil, err
	}
	s := newSession(conn, low, peer, timing{
		pingEvery: v.opts.PingInterval, pingTimeout: v.opts.PingTimeout, idle: v.opts.IdleTimeout})
	s.openReader(r, serverHeaderLimit)
	s.appendSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxServerStreams},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: serverHeaderLimit})
	return s, nil
}

func readPreface(ctx context.Context, raw net.Conn, r io.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil {
		return fmt.Errorf("HTTP/2 preface: %w", err)
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("HTTP/2 preface: something else came")
	}
	if !stop() {
		return fmt.Errorf("HTTP/2 preface: %w", context.Cause(ctx))
	}
	return nil
}

func (v *Server) add(s *session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sessions[s] = struct{}{}
	if v.draining {
		s.goAway()
	}
}

func (v *Server) remove(s *session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.sessions, s)
}

// Drain says GOAWAY on all connections, those to come too. Tunnels under way go
// on; each Serve returns after the last of its own.
func (v *Server) Drain() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.draining = true
	for s := range v.sessions {
		s.goAway()
	}
}

// Farewell drains as Drain does, and waits until every peer has seen that, or
// is gone, or ctx ends: from then on no peer opens a tunnel here.
func (v *Server) Farewell(ctx context.Context) {
	v.Drain()
	v.mu.Lock()
	sessions := slices.Collect(maps.Keys(v.sessions))
	v.mu.Unlock()
	for _, s := range sessions {
		select {
		case <-s.parted:
		case <-s.done:
		case <-ctx.Done():
			return
		}
	}
}

// Tunnel is a CONNECT that waits for an answer. The client's bytes may already
// be coming in; they wait in the Conn.
type Tunnel struct {
	// Authority is what the client wants to be connected to.
	Authority Authority
	// Peer is who is at the other end of the TLS connection.
	Peer   spiffeid.ID
	Header Header
	// RemoteAddr and LocalAddr are those of the TLS connection.
	RemoteAddr, LocalAddr net.Addr

	conn     *Conn
	invalid  error // why it is no CONNECT
	answered bool
}

func newTunnel(c *Conn, f *http2.MetaHeadersFrame) *Tunnel {
	t := &Tunnel{Peer: c.s.peer, RemoteAddr: c.RemoteAddr(), LocalAddr: c.LocalAddr(), conn: c}
	if t.invalid = isConnect(f); t.invalid == nil {
		t.Authority, t.invalid = ParseAuthority(f.PseudoValue("authority"))
	}
	t.Header = parseHeader(f.RegularFields())
	return t
}

// TLS returns the state of the TLS connection.
func (t *Tunnel) TLS() tls.ConnectionState { return t.conn.TLS() }

// handle runs the handler and cleans up after it.
func (t *Tunnel) handle(ctx context.Context, h Handler) {
	defer t.conn.release()
	if t.invalid != nil {
		_ = t.Reject(http.StatusBadRequest, t.invalid.Error())
		return
	}
	h(ctx, t)
	if !t.answered {
		_ = t.Reject(http.StatusInternalServerError, "no decision")
	}
}

// release ends what a handler has left and gives its place to another.
func (c *Conn) release() {
	_ = c.Close() // returns nil
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.cancel()
	c.s.running--
}

// Accept answers 200 and returns the connection, which the caller closes. It
// fails if the client has given up meanwhile.
func (t *Tunnel) Accept(h ResponseHeader) (*Conn, error) {
	if err := t.respond(http.StatusOK, h, false); err != nil {
		return nil, err
	}
	return t.conn, nil
}

// Reject answers with a status that is not 2xx, and tells the client the reason.
func (t *Tunnel) Reject(status int, reason string) error {
	return t.respond(status, ResponseHeader{Reason: printable(reason)}, true)
}

func (t *Tunnel) respond(status int, h ResponseHeader, end bool) error {
	if t.answered {
		return errors.New("tunnel was answered already")
	}
	t.answered = true
	c := t.conn
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.sendErr != nil {
		return c.sendErr
	}
	c.status = status
	fields := append([]hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(status)}}, h.fields()...)
	if err := c.s.appendHeaders(c.id, end, fields...); err != nil || !end {
		return err
	}
	c.sendErr = net.ErrClosed
	c.writable.Broadcast()
	if c.recvErr == nil {
		// The client has no business to send more (RFC 9113 section 8.1).
		c.s.appendReset(c.id, http2.ErrCodeNo)
		c.recvErr = net.ErrClosed
	}
	c.s.forget(c)
	return nil
}

// printable makes a reason fit a header field.
func printable(reason string) string {
	const limit = 200
	b := []byte(reason)
	if len(b) > limit {
		b = b[:limit]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
