package configstream

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
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
// All methods are safe for use at the same time.
type Server struct {
	opts    ServerOptions
	log     *slog.Logger
	metrics *serverMetrics
	store   *store

	syncOnce, drainOnce sync.Once
	synced, draining    chan struct{}

	mu      sync.Mutex
	streams map[*stream]struct{}
	numbers uint64 // of streams so far
	// readers are the goroutines that read from streams. They end soon after
	// their streams; Wait waits for them.
	readers sync.WaitGroup
}

// NewServer returns a Server that knows no resources and holds its streams
// until SetSynced.
func NewServer(o ServerOptions) *Server {
	s := &Server{
		opts:     o,
		log:      o.Log,
		metrics:  newServerMetrics(o.Registry),
		store:    newStore(),
		synced:   make(chan struct{}),
		draining: make(chan struct{}),
		streams:  map[*stream]struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Register makes the gRPC server, which should have been made with GRPCOptions,
// offer the config stream and the node reports.
func (s *Server) Register(g *grpc.Server) {
	discoverypb.RegisterAggregatedDiscoveryServiceServer(g, adsService{server: s})
	configpb.RegisterNodeReportsServer(g, reportService{server: s})
}

// Drain ends all streams, and those to come, so that clients turn to another
// replica. Call it before the gRPC server's GracefulStop, which waits for them.
func (s *Server) Drain() {
	s.drainOnce.Do(func() { close(s.draining) })
}

// Wait returns when nothing of the streams is left. Call it after the gRPC
// server's Stop.
func (s *Server) Wait() { s.readers.Wait() }

// PublishMesh takes over changes of the mesh, all at the same moment. Values
// that are what they were cost nothing. The values are not kept.
func (s *Server) PublishMesh(u mesh.Update) {
	var c [kindCount]change
	c[kindWorkload] = publication(s, kindWorkload, u.Workloads, workloadResource)
	c[kindSlice] = publication(s, kindSlice, u.Slices, sliceResource)
	c[kindService] = publication(s, kindService, u.Services, serviceResource)
	c[kindWorkload].removed = each(u.RemovedWorkloads, func(id mesh.WorkloadID) string { return string(id) })
	c[kindSlice].removed = each(u.RemovedSlices, func(k mesh.SliceKey) string { return name(k.Namespace, k.Name) })
	c[kindService].removed = each(u.RemovedServices, func(k mesh.ServiceKey) string { return name(k.Namespace, k.Name) })
	s.store.publish(c)
}

// PublishTables takes over changes of routing tables. To make before it breaks,
// publish what new tables lead to before them, and remove what removed tables
// led to after them.
func (s *Server) PublishTables(up []*routing.Table, removed []routing.TableKey) {
	var c [kindCount]change
	c[kindTable] = publication(s, kindTable, up, tableResource)
	c[kindTable].removed = each(removed, tableName)
	s.store.publish(c)
}

// publication encodes values. One that has no form on the wire is left out:
// clients keep what they have of it.
func publication[V any](s *Server, k kind, values []V, encode func(V) (resource, error)) (c change) {
	for _, v := range values {
		r, err := encode(v)
		if err != nil {
			s.metrics.dropped.WithLabelValues(k.String()).Inc()
			s.log.Error("config stream: value has no form on the wire", "type", k.String(), "error", err)
			continue
		}
		c.up = append(c.up, r)
	}
	return c
}

// SetSynced lets the streams go: what was published is now all there is. Before
// it a client gets nothing, so that a controller that has just started takes
// nothing away from clients that know more.
func (s *Server) SetSynced() {
	s.syncOnce.Do(func() { close(s.synced) })
}

// Proxies returns who is connected, the oldest stream first.
func (s *Server) Proxies() []ProxyStatus {
	current := s.store.current()
	s.mu.Lock()
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	slices.SortFunc(streams, func(a, b *stream) int { return cmp.Compare(a.number, b.number) })
	out := make([]ProxyStatus, len(streams))
	for i, st := range streams {
		out[i] = st.status(current)
	}
	return out
}

func (s *Server) join(st *stream) {
	s.store.join(st.watch)
	s.metrics.streams.WithLabelValues(st.peer.Role.String()).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers++
	st.number = s.numbers
	s.streams[st] = struct{}{}
}

func (s *Server) leave(st *stream) {
	s.store.leave(st.watch)
	s.metrics.streams.WithLabelValues(st.peer.Role.String()).Dec()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
}
