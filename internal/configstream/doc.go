// Package configstream carries the two vocabularies, mesh and routing, from the
// controller to the node agents, ztunnels and proxies, and the node agents'
// reports back. The protocol is the incremental (delta) aggregated discovery
// service of xDS v3 with resource types of Towpath's own, over gRPC.
//
// It knows how values are named, encoded, ordered, withheld and resumed. It may
// not know Kubernetes, what a value means to the proxy that gets it, or how a
// token is checked: Authenticate is given to it. Its protobuf types stay inside
// it; nothing exported mentions them.
package configstream
