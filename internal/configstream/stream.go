package configstream

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type adsStream = discoverypb.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// adsService is the gRPC face of a Server.
type adsService struct {
	discoverypb.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
}

// DeltaAggregatedResources serves one stream. It sends from this goroutine and
// reads in another one, because either may block while the other must not; the
// reader can end only after this function has returned, so the Server owns it.
func (a adsService) DeltaAggregatedResources(rpc adsStream) error {
	s := a.server
	peer, err := s.identify(rpc.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(rpc.Context())
	defer cancel(nil)
	st := newStream(s, peer, rpc)
	s.join(st)
	defer s.leave(st)
	log := s.log.With("role", peer.Role.String(), "namespace", peer.Namespace, "pod", peer.Pod, "node", peer.Node)
	log.Info("config stream: client connected")
	s.readers.Go(func() { cancel(st.read()) })
	err = st.serve(ctx)
	log.Info("config stream: client gone", "reason", err)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, errBehind):
		s.metrics.behind.Inc()
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

var errDraining = status.Error(codes.Unavailable, "this controller is about to end")

// stream is one client's. Its turn is what it sends between two rests: what
// the client lacks of every type, cut at one moment and put in the order in
// which nothing comes before what it leads to. The next turn waits until the
// client has answered all of this one; meanwhile changes gather in the store,
// each key with its newest value only.
type stream struct {
	server *Server
	peer   Peer
	rpc    adsStream
	since  time.Time
	number uint64 // set once, by join
	watch  *watcher

	mu       sync.Mutex
	client   clientInfo
	starts   map[kind]map[string]string // subscribed, nothing sent yet
	subs     map[kind]*subscription
	pending  map[string]kind // unanswered nonces
	nonces   uint64
	lastNACK *NACK
}

// clientInfo is what a client says of itself in its first request.
type clientInfo struct {
	version      string
	capabilities []string
}

// subscription is how far the client is with one type.
type subscription struct{ sent, acked uint64 }

func newStream(s *Server, peer Peer, rpc adsStream) *stream {
	return &stream{
		server:  s,
		peer:    peer,
		rpc:     rpc,
		since:   time.Now(),
		watch:   newWatcher(view{peer: peer}),
		starts:  map[kind]map[string]string{},
		subs:    map[kind]*subscription{},
		pending: map[string]kind{},
	}
}

// serve sends turns until the stream ends, and returns why it did.
func (st *stream) serve(ctx context.Context) error {
	if err := st.await(ctx, st.server.synced); err != nil {
		return err
	}
	for {
		if err := st.await(ctx, st.watch.wake); err != nil {
			return err
		}
		turn, err := st.turn()
		if err != nil {
			return err
		}
		for _, r := range turn {
			if err := st.rpc.Send(r); err != nil {
				return err
			}
		}
	}
}

// await returns nil when event happens, or why the stream ends before.
func (st *stream) await(ctx context.Context, event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-st.server.draining:
		return errDraining
	}
}

// turn returns what to send now: nothing while the last turn is unanswered.
func (st *stream) turn() ([]*discoverypb.DeltaDiscoveryResponse, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.pending) > 0 {
		// The last answer wakes the stream; falling behind must not wait for it.
		return nil, st.server.store.alive(st.watch)
	}
	deltas, at, err := st.server.store.collect(st.watch, st.starts)
	if err != nil {
		return nil, err
	}
	for k := range st.starts {
		st.subs[k] = &subscription{}
	}
	clear(st.starts)
	turn := st.compose(deltas, at)
	for _, sub := range st.subs {
		sub.sent = at
	}
	st.settle()
	return turn, nil
}

// compose orders a turn: routes go before the services they lead to, and come
// after them.
func (st *stream) compose(deltas [kindCount]delta, at uint64) (turn []*discoverypb.DeltaDiscoveryResponse) {
	respond := func(k kind, up []*discoverypb.Resource, removed []string) {
		turn = append(turn, st.response(k, up, removed, at))
	}
	if d := deltas[kindTable]; len(d.removed) > 0 {
		respond(kindTable, nil, d.removed)
	}
	for k := kindWorkload; k < kindCount; k++ {
		if d := deltas[k]; d.first || len(d.up) > 0 {
			respond(k, d.up, nil)
		}
	}
	for _, k := range []kind{kindService, kindSlice, kindWorkload} {
		if d := deltas[k]; len(d.removed) > 0 {
			respond(k, nil, d.removed)
		}
	}
	return turn
}

func (st *stream) response(k kind, up []*discoverypb.Resource, removed []string, at uint64) *discoverypb.DeltaDiscoveryResponse {
	st.nonces++
	nonce := strconv.FormatUint(st.nonces, 10)
	st.pending[nonce] = k
	st.server.metrics.sent.WithLabelValues(k.String()).Add(float64(len(up) + len(removed)))
	return &discoverypb.DeltaDiscoveryResponse{
		SystemVersionInfo: strconv.FormatUint(at, 10),
		TypeUrl:           k.typeURL(),
		Nonce:             nonce,
		Resources:         up,
		RemovedResources:  removed,
	}
}

// settle counts the types without an unanswered response as up to date.
func (st *stream) settle() {
	waiting := map[kind]bool{}
	for _, k := range st.pending {
		waiting[k] = true
	}
	for k, sub := range st.subs {
		if !waiting[k] {
			sub.acked = sub.sent
		}
	}
}

// read takes requests until the stream ends.
func (st *stream) read() error {
	for {
		req, err := st.rpc.Recv()
		if err != nil {
			return err
		}
		st.take(req)
	}
}

// take handles one request: a subscription, an ACK or a NACK.
func (st *stream) take(req *discoverypb.DeltaDiscoveryRequest) {
	k, ok := kindOf(req.GetTypeUrl())
	if !ok {
		st.server.log.Warn("config stream: unknown resource type ignored", "type", req.GetTypeUrl(), "pod", st.peer.Pod)
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := req.GetNode(); n != nil {
		st.client = clientInfoOf(n)
		st.watch.view.capabilities = st.client.capabilities
	}
	if st.subs[k] == nil && st.starts[k] == nil {
		st.subscribe(k, req)
		return
	}
	st.answer(k, req)
}

// subscribe starts a type. Subscriptions are to everything the client may see.
func (st *stream) subscribe(k kind, req *discoverypb.DeltaDiscoveryRequest) {
	if names := req.GetResourceNamesSubscribe(); len(names) > 0 && !slices.Contains(names, "*") {
		st.server.log.Warn("config stream: subscription by name taken for one to everything", "type", k.String(), "pod", st.peer.Pod)
	}
	have := req.GetInitialResourceVersions()
	if have == nil {
		have = map[string]string{}
	}
	st.starts[k] = have
	st.watch.poke()
}

// answer takes an ACK or a NACK. Others, such as one for a nonce that was
// answered already, mean nothing.
func (st *stream) answer(k kind, req *discoverypb.DeltaDiscoveryRequest) {
	if sent, ok := st.pending[req.GetResponseNonce()]; !ok || sent != k {
		return
	}
	delete(st.pending, req.GetResponseNonce())
	if d := req.GetErrorDetail(); d != nil {
		st.lastNACK = &NACK{Type: k.String(), Message: d.GetMessage(), At: time.Now()}
		st.server.metrics.nacks.WithLabelValues(k.String()).Inc()
		st.server.log.Warn("config stream: client refused resources", "type", k.String(), "pod", st.peer.Pod, "error", d.GetMessage())
	}
	st.settle()
	if len(st.pending) == 0 {
		st.watch.poke()
	}
}

func clientInfoOf(n *corepb.Node) clientInfo {
	info := clientInfo{version: n.GetUserAgentVersion()}
	for _, c := range n.GetMetadata().GetFields()[metaCapabilities].GetListValue().GetValues() {
		info.capabilities = append(info.capabilities, c.GetStringValue())
	}
	return info
}

func (st *stream) status(current [kindCount]uint64) ProxyStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := ProxyStatus{
		Peer:         st.peer,
		Version:      st.client.version,
		Capabilities: slices.Clone(st.client.capabilities),
		Since:        st.since,
		Withheld:     slices.Sorted(maps.Keys(st.watch.withheld)),
		LastNACK:     st.lastNACK,
	}
	for _, k := range slices.Sorted(maps.Keys(st.subs)) {
		sub := st.subs[k]
		out.Types = append(out.Types, TypeStatus{Type: k.String(), Sent: sub.sent, Acked: sub.acked, Current: current[k]})
	}
	return out
}
