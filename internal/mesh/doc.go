// Package mesh is the first of the two vocabularies in which the control plane
// and the proxies meet: who is in the mesh, where it can be reached and which
// services it belongs to. It holds plain values and one immutable index over
// them, World.
//
// It knows SPIFFE IDs and network addresses. It may not know Kubernetes,
// protobuf, sockets, clocks or loggers, and it may not know package routing:
// the L4 half of Towpath must be able to live without the L7 half.
package mesh
