package configstream

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The peers of these tests, by token.
var peers = Tokens{
	"agent1":   {Role: RoleNodeAgent, Node: "n1", Pod: "agent1"},
	"ztunnel":  {Role: RoleZTunnel, Node: "n1", Pod: "ztunnel"},
	"wp":       {Role: RoleProxy, Node: "n1", Pod: "wp", Proxy: mesh.ProxyKey{Namespace: "a", Name: "wp"}},
	"nodeless": {Role: RoleNodeAgent},
}

// rig is a controller with its network, inside a synctest bubble: time is fake
// there, and settle waits until nothing moves any more.
type rig struct {
	t      *testing.T
	server *Server
	local  *Local
	ctx    context.Context
	stop   func() // stops the server and waits for it
}

// inBubble runs the test with a rig. The bubble itself is the check for leaks:
// it does not end while a goroutine of it is left.
func inBubble(t *testing.T, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := &rig{t: t, server: newTestServer(), ctx: ctx}
		r.local = NewLocal(r.server)
		r.start()
		test(r)
		r.stop()
	})
}

func newTestServer() *Server {
	return NewServer(ServerOptions{Authenticate: peers.Authenticate, Log: slog.New(slog.DiscardHandler)})
}

func settle() { synctest.Wait() }

// pass lets so much of the bubble's own time go by.
func pass(d time.Duration) {
	<-time.After(d)
	settle()
}

func (r *rig) start() {
	ctx, cancel := context.WithCancel(r.ctx)
	var g sync.WaitGroup
	g.Go(func() {
		if err := r.local.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	r.stop = func() { cancel(); g.Wait() }
	settle()
}

// restart puts a new server in the place of the old one.
func (r *rig) restart(s *Server) {
	r.stop()
	settle()
	r.server = s
	r.local.Replace(s)
	r.start()
}

// run runs a client until the returned function is called.
func (r *rig) run(o ClientOptions) (c *Client, stop func()) {
	c = r.local.Client(o)
	ctx, cancel := context.WithCancel(r.ctx)
	var g sync.WaitGroup
	g.Go(func() {
		if err := c.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	return c, func() { cancel(); g.Wait() }
}

func token(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// raw is a client that does exactly what the test tells it to.
type raw struct {
	t      *testing.T
	rpc    discoverypb.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	inbox  chan *discoverypb.DeltaDiscoveryResponse
	close  func()
	err    error
	reader sync.WaitGroup
}

func (r *rig) raw(tok string) *raw {
	conn, err := grpc.NewClient("passthrough:///local", append(dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(r.local.connect))...)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	ctx, err = withToken(ctx, token(tok))
	if err != nil {
		r.t.Fatal(err)
	}
	rpc, err := discoverypb.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	c := &raw{t: r.t, rpc: rpc, inbox: make(chan *discoverypb.DeltaDiscoveryResponse, 100)}
	c.reader.Go(func() {
		for {
			resp, err := rpc.Recv()
			if err != nil {
				c.err = err
				return
			}
			c.inbox <- resp
		}
	})
	c.close = func() { cancel(); c.reader.Wait(); _ = conn.Close() }
	return c
}

func (c *raw) send(req *discoverypb.DeltaDiscoveryRequest) {
	c.t.Helper()
	if err := c.rpc.Send(req); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) subscribe(kinds ...kind) {
	c.t.Helper()
	for _, k := range kinds {
		c.send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: k.typeURL()})
	}
}

// received returns what has come since the last call, once all is quiet.
func (c *raw) received() (out []*discoverypb.DeltaDiscoveryResponse) {
	settle()
	for {
		select {
		case r := <-c.inbox:
			out = append(out, r)
		default:
			return out
		}
	}
}

// ack answers responses; a message makes it a NACK.
func (c *raw) ack(message string, resps ...*discoverypb.DeltaDiscoveryResponse) {
	c.t.Helper()
	for _, r := range resps {
		req := &discoverypb.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
		if message != "" {
			req.ErrorDetail = &statuspb.Status{Message: message}
		}
		c.send(req)
	}
}

// lines shows responses as text: "Workload +a +b -c".
func lines(resps []*discoverypb.DeltaDiscoveryResponse) (out []string) {
	for _, r := range resps {
		k, _ := kindOf(r.GetTypeUrl())
		line := k.String()
		for _, res := range r.GetResources() {
			line += " +" + res.GetName()
		}
		for _, name := range r.GetRemovedResources() {
			line += " -" + name
		}
		out = append(out, line)
	}
	return out
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %q\nwant\n  %q", got, want)
	}
}

func workload(id, node string) *mesh.Workload {
	return &mesh.Workload{ID: mesh.WorkloadID(id), Namespace: "a", Name: id, Node: node}
}

func named1(name string) (mesh.ServiceKey, mesh.SliceKey) {
	return mesh.ServiceKey{Namespace: "a", Name: name}, mesh.SliceKey{Namespace: "a", Name: name + "-1"}
}

func service(name string) *mesh.Service {
	key, _ := named1(name)
	return &mesh.Service{Key: key, Hostname: name}
}

func slice(name string) *mesh.EndpointSlice {
	svc, key := named1(name)
	return &mesh.EndpointSlice{Key: key, Service: svc}
}

func tableKey(proxy, parent string) routing.TableKey {
	return routing.TableKey{
		Proxy:  mesh.ProxyKey{Namespace: "a", Name: proxy},
		Parent: routing.Parent{Kind: routing.ParentService, Namespace: "a", Name: parent},
	}
}

func table(proxy, parent string) *routing.Table { return &routing.Table{Key: tableKey(proxy, parent)} }
