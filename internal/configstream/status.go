package configstream

import "time"

// ProxyStatus is the state of one connected client.
type ProxyStatus struct {
	Peer Peer
	// Version is the client's own, as it says.
	Version string
	// Capabilities are what the client says it understands beyond the base.
	Capabilities []string
	// Since is when the stream was authenticated.
	Since time.Time
	// Types are the subscribed types, in the order in which they are sent.
	Types []TypeStatus
	// Withheld names resources that the client does not get because it lacks a
	// capability, sorted.
	Withheld []string
	// LastNACK is the newest refusal, nil if there was none on this stream.
	LastNACK *NACK
}

// TypeStatus says how far a client is with one resource type. The numbers count
// this server's changes of all types: a client is up to date when Acked is not
// below Current.
type TypeStatus struct {
	// Type is the short name: Workload, EndpointSlice, Service or Table.
	Type                 string
	Sent, Acked, Current uint64
}

// NACK is a client's refusal of some resources of a response. It has applied
// the others.
type NACK struct {
	Type    string
	Message string
	At      time.Time
}
