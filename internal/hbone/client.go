package hbone

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/towpath-mesh/towpath/identity"
)

// readBuffer is what the framer reads small frames from.
const readBuffer = 16 << 10

// connect makes the client's side of a session over a fresh TCP connection,
// which it owns.
func connect(ctx context.Context, raw net.Conn, config *tls.Config, t timing) (*session, error) {
	low := newBatchConn(raw)
	conn := tls.Client(low, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one to tell
		return nil, &ConnectError{Stage: StageTLS, Err: err}
	}
	peer, err := peerOf(conn)
	if err != nil {
		_ = raw.Close()
		return nil, &ConnectError{Stage: StageTLS, Err: err}
	}
	s := newSession(conn, low, peer, t)
	s.nextID = 1
	s.openReader(bufio.NewReaderSize(conn, readBuffer), clientHeaderLimit)
	s.pending = append(s.pending, http2.ClientPreface...)
	s.appendSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: clientHeaderLimit})
	return s, nil
}

// reserve promises a stream, unless the session is full or about to end.
func (s *session) reserve(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable(now) || len(s.streams)+s.reserved >= s.peerStreams {
		return false
	}
	s.reserved++
	return true
}

// usable reports whether new streams may be opened at all. A session does not
// outlive the certificate by which its peer was let in.
func (s *session) usable(now time.Time) bool {
	return s.err == nil && s.closing == nil && !s.gone && s.drain == drainNone && s.nextID < 1<<31-1 &&
		now.Before(s.state.PeerCertificates[0].NotAfter)
}

// open sends a CONNECT on a reserved stream and waits for the answer.
func (s *session) open(ctx context.Context, authority string, h Header) (*Conn, error) {
	c, err := s.sendConnect(authority, h)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.answered:
	case <-ctx.Done():
		c.abandon()
		return nil, fmt.Errorf("tunnel to %s: no answer: %w", authority, context.Cause(ctx))
	}
	return c.outcome()
}

func (s *session) sendConnect(authority string, h Header) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
	if s.err != nil && !s.greeted {
		return nil, &unanswered{&ConnectError{Stage: StageTLS, Err: s.err}}
	}
	if s.err != nil {
		return nil, &unanswered{s.err}
	}
	if !s.usable(time.Now()) {
		s.closeIfDrained()
		return nil, &unanswered{ErrClosed}
	}
	id := s.nextID
	s.nextID += 2
	fields := append([]hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"},
		{Name: ":authority", Value: authority},
	}, h.fields()...)
	if err := s.appendHeaders(id, false, fields...); err != nil {
		return nil, err
	}
	c := newConn(s, id)
	c.answered = make(chan struct{})
	return c, nil
}

// abandon gives up a stream whose answer nobody waits for any more.
func (c *Conn) abandon() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.endLocally(http2.ErrCodeCancel)
}

// outcome turns the answer into the connection or an error.
func (c *Conn) outcome() (*Conn, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case c.status >= 200 && c.status < 300:
		return c, nil
	case c.status != 0:
		c.endLocally(http2.ErrCodeCancel)
		return nil, &StatusError{Status: c.status, Reason: c.response.Reason}
	}
	if c.s.err != nil && !c.s.greeted {
		// In TLS 1.3 the client is done before the server has judged it.
		return nil, &unanswered{&ConnectError{Stage: StageTLS, Err: c.s.err}}
	}
	var u *unanswered
	if errors.As(c.recvErr, &u) {
		return nil, u
	}
	return nil, &unanswered{c.recvErr}
}

// peerOf returns who is at the other end of a connection that speaks HTTP/2.
func peerOf(conn *tls.Conn) (id spiffeid.ID, err error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != http2.NextProtoTLS {
		return id, fmt.Errorf("peer speaks %q, not h2", state.NegotiatedProtocol)
	}
	return identity.PeerID(state)
}
