// Package hbone carries TCP connections through HTTP/2 CONNECT streams over
// mutual TLS: the tunnel of the ambient family of meshes, wire-compatible with
// Istio's. A Dialer opens tunnels and shares TLS connections between them; a
// Server takes them. Both hand out a Conn, a net.Conn that half-closes and
// resets the way TCP does.
//
// The package knows bytes, streams and the peer's SPIFFE ID. It may not know
// workloads, services or policy: where a tunnel goes, whom to expect there and
// who may come in is decided by its users, who also bring the TLS
// configurations (from package identity).
//
// The engine is private: session and the files around it read frames with
// golang.org/x/net/http2's Framer and write them by hand. net/http would not
// do, because its server cannot end a response and go on reading the request,
// which a half-closed TCP connection needs.
package hbone
