package wire

import (
	"context"
	"net"
	"time"
)

// Limits of what an engine takes from a peer.
const (
	MaxHeaderBytes = 64 << 10 // all field lines together
	MaxFieldBytes  = 16 << 10 // one field line
	MaxFields      = 100
	MaxTargetBytes = 16 << 10

	HeaderTimeout = 10 * time.Second // from the first byte of a head to its last
	IdleTimeout   = 10 * time.Minute // between requests
	MaxStreams    = 250              // concurrent requests of one HTTP/2 connection
)

// Handler handles one request: it calls w.Send exactly once, unless ctx ends
// before. ctx ends when the client goes away or the connection is cut.
type Handler func(ctx context.Context, req *Request, w Responder)

// Responder answers one request.
type Responder interface {
	// Inform sends an interim response (102 to 199). It does nothing once the
	// response was sent, or for a client that cannot take one. Safe for use
	// beside Send.
	Inform(status int, h *Header)
	// Send sends the response: head, body as it arrives, trailers; a 101 is
	// followed by the tunnel's bytes both ways until both sides are done. It
	// closes the response. An error means that the client did not get all of it
	// and was made to notice: a connection closed or a stream reset early.
	Send(*Response) (Sent, error)
}

// Sent tells what Send has sent.
type Sent struct {
	// Body counts bytes of the body, or those sent to the client through the
	// tunnel.
	Body int64
	// Received counts those received from the client through the tunnel.
	Received int64
}

// Server is the engine that serves connections.
type Server interface {
	// Serve speaks HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113 section
	// 3.3), told by the first bytes, on a connection that it owns and closes.
	// It returns when the connection has ended and no handler is running.
	// When drain is closed no further request is taken: requests under way are
	// finished. When ctx is done the connection is cut.
	Serve(ctx context.Context, conn net.Conn, h Handler, drain <-chan struct{}) error
}

// Client is the engine that sends requests.
type Client interface {
	// Do sends the request and returns the head of the answer; the body follows
	// while it is read. It does not change the request. ctx bounds the whole
	// exchange, body included.
	Do(ctx context.Context, req *Request, via Via) (*Response, error)
	// Close closes the connections that nobody uses.
	Close()
}

// Via says over which connection a request goes.
type Via struct {
	// Pool names a set of connections that may be shared: connections made for
	// one name are never used for another. Everything that distinguishes
	// connections (endpoint, asserted source) must be in it.
	Pool string
	// Dial makes a new connection. It must bound its own time: it may be
	// finished after the request that asked for it was given up, for the use of
	// the next one. Values of ctx are those of that request.
	Dial func(ctx context.Context) (net.Conn, error)
	// H2C says to speak HTTP/2 with prior knowledge, HTTP/1.1 otherwise. An
	// upgrade always uses HTTP/1.1.
	H2C bool
	// OnConn, if set, is told the connection that was chosen, once it is there.
	OnConn func(conn net.Conn, reused bool)
	// OnInform, if set, is told of interim responses other than 100.
	OnInform func(status int, h *Header)
}

// DialError wraps what Dial returned: nothing of the request was sent.
type DialError struct{ Err error }

func (e *DialError) Error() string { return "connect: " + e.Err.Error() }

// Unwrap returns the error of Dial.
func (e *DialError) Unwrap() error { return e.Err }
