// Package routing is the second of the two vocabularies in which the control
// plane and the proxies meet: what an L7 proxy does with a request. It holds
// plain values, already checked and resolved: names are full, defaults are
// filled in, broken references are data.
//
// It may know package mesh. It may not know Kubernetes, protobuf, sockets,
// net/http, clocks or loggers, and it matches nothing itself: that is
// waypoint/match.
package routing
