// Package wire is the HTTP of the data path: one message type that the
// pipeline sees, whatever was spoken on the wire, and the engines that turn
// connections into messages and back.
//
// A Request that an engine hands out is in canonical form: its target was
// parsed, checked and normalised once, and matching, policy, logs and
// forwarding all use that one form (RFC 3986 section 6, RFC 9110 section 4).
// A request that has no canonical form is handed out too, with Refused set, so
// that it is answered and recorded like every other.
//
// The engines stand behind Server and Client. Those in the files std*.go use
// the standard library; nothing else on the data path may import net/http. The
// package may not know the mesh, routes or telemetry.
package wire
