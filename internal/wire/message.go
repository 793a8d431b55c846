package wire

import "io"

// Proto is the version of HTTP spoken on a connection.
type Proto uint8

// The versions that the engines speak.
const (
	HTTP10 Proto = iota
	HTTP11
	HTTP2
)

// String returns the version as telemetry writes it: "1.0", "1.1" or "2".
func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "1.0"
	case HTTP2:
		return "2"
	}
	return "1.1"
}

// Request is one HTTP request in canonical form. It belongs to whoever handles
// it, until that returns.
type Request struct {
	Proto  Proto
	Method string
	// Scheme is "http" or "https", as the client sees it.
	Scheme string
	// Authority is host or host:port in lower case; empty only for HTTP/1.0
	// without Host.
	Authority string
	// Path is the canonical path: it begins with a slash, or is "*" (OPTIONS
	// only).
	Path string
	// Query is what follows the question mark, as it was sent; HasQuery tells
	// an empty one from none.
	Query    string
	HasQuery bool
	// Header holds end-to-end fields only.
	Header Header
	// ContentLength is the length of Body, -1 when it is not known beforehand.
	ContentLength int64
	// Body is nil when there is none. Reading it tells the client to send, if
	// it waits for that. Close gives the rest up and may be called while a Read
	// is under way, which then fails; who sends a request closes its body only
	// in that case, for another attempt may still need it. The engine that made
	// the request closes it in the end.
	Body io.ReadCloser
	// Trailer is filled when Body has returned io.EOF; nil when the client
	// announced none.
	Trailer *Header
	// TETrailers says that the client takes trailers (TE: trailers), which gRPC
	// servers insist on.
	TETrailers bool
	// ExpectContinue says that the client waits for "100 Continue" before it
	// sends the body.
	ExpectContinue bool
	// Upgrade is "websocket" when the client asks for that; no other upgrade is
	// passed on.
	Upgrade string
	// Refused is set when the request has no canonical form or breaks a limit.
	// It must be answered with that and go nowhere; the other fields are as far
	// as could be told.
	Refused *Refusal
}

// Target returns path and query as they go on the wire.
func (r *Request) Target() string {
	if !r.HasQuery {
		return r.Path
	}
	return r.Path + "?" + r.Query
}

// Refusal is why a request cannot be processed.
type Refusal struct {
	Status int    // 400, 405, 414 or 431
	Reason string // a few constant words
}

func (r *Refusal) Error() string { return r.Reason }

func bad(reason string) *Refusal { return &Refusal{Status: 400, Reason: reason} }

// Response is one HTTP response.
type Response struct {
	Status int
	// Header holds end-to-end fields only.
	Header Header
	// ContentLength is the length of the body, -1 when it is not known
	// beforehand. For an answer to HEAD it is what GET would have had, -1 when
	// that was not said.
	ContentLength int64
	// Body is nil when there is none. Whoever sends the response closes it.
	Body io.ReadCloser
	// Trailer is filled when Body has returned io.EOF; nil when there can be
	// none.
	Trailer *Header
	// Tunnel is set on a 101: the connection, now free for the other protocol.
	Tunnel io.ReadWriteCloser
}

// Close gives up the response without sending it.
func (r *Response) Close() {
	if r.Body != nil {
		r.Body.Close()
	}
	if r.Tunnel != nil {
		r.Tunnel.Close()
	}
}
