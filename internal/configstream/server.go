package configstream

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// ServerOptions are what a Server needs from its surroundings.
type ServerOptions struct {
	// Authenticate tells who a client is from its bearer token. Required.
	Authenticate AuthenticateFunc
	// OnReport gets the reports of node agents; its error goes back to them.
	// Nil answers Unimplemented.
	OnReport func(ctx context.Context, from Peer, pods []PodReport) error
	// Log gets connects, disconnects and NACKs; nil discards them.
	Log *slog.Logger
	// Registry gets the server's metrics; nil keeps them out of sight.
	Registry prometheus.Registerer
}

// Server holds the newest value of every resource and streams them to clients.
type Server struct{ opts ServerOptions }

// NewServer returns a Server that knows no resources and holds its streams
// until SetSynced.
func NewServer(o ServerOptions) *Server { return &Server{opts: o} }

// Register makes the gRPC server offer the config stream and the node reports.
func (s *Server) Register(g *grpc.Server) {}

// PublishMesh takes over changes of the mesh.
func (s *Server) PublishMesh(u mesh.Update) {}

// PublishTables takes over changes of routing tables.
func (s *Server) PublishTables(up []*routing.Table, removed []routing.TableKey) {}

// SetSynced lets the streams go.
func (s *Server) SetSynced() {}

// Proxies returns who is connected.
func (s *Server) Proxies() []ProxyStatus { return nil }

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
	// LastNACK is the newest refusal, nil if there was none on this stream.
	LastNACK *NACK
}

// TypeStatus says how far a client is with one resource type. Versions count
// the server's changes and compare by number; equal ones mean "up to date".
type TypeStatus struct {
	// Type is the short name: Workload, EndpointSlice, Service or Table.
	Type                  string
	Sent, Acked, Current uint64
}

// NACK is a client's refusal of some resources of a response. It has applied
// the others.
type NACK struct {
	Type    string
	Message string
	At      time.Time
}
