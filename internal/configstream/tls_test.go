package configstream

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// TestOverTLS runs the pair over TCP and the TLS that the programs use.
func TestOverTLS(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	controller := spiffeid.RequireFromPath(td, "/ns/towpath-system/sa/towpath-controller")
	ca := identity.NewFakeCA(td)

	s := newTestServer()
	s.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("p", "n")}})
	s.SetSynced()
	g := grpc.NewServer(append(GRPCOptions(), grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(ca.Source(controller)))))...)
	s.Register(g)
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = g.Serve(ln) })
	defer func() { cancel(); g.Stop(); s.Wait() }()

	synced := make(chan struct{})
	var worlds mesh.Store
	c := NewClient(ClientOptions{
		Address: ln.Addr().String(), Token: token("ztunnel"), Role: RoleZTunnel, Worlds: &worlds,
		TLS:      identity.ControllerClientTLS(ca.Bundle, controller),
		OnSynced: func() { close(synced) },
	})
	all.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-synced
	if _, ok := worlds.Load().Workload("p"); !ok {
		t.Error("no workload")
	}
}

// A server that is not the controller gets neither the token nor a hearing.
func TestImpostorIsRefused(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	controller := spiffeid.RequireFromPath(td, "/ns/towpath-system/sa/towpath-controller")
	impostor := spiffeid.RequireFromPath(td, "/ns/shop/sa/web")
	ca := identity.NewFakeCA(td)

	asked := make(chan struct{}, 100)
	s := NewServer(ServerOptions{Authenticate: func(ctx context.Context, token string) (Peer, error) {
		asked <- struct{}{}
		return peers.Authenticate(ctx, token)
	}})
	s.SetSynced()
	g := grpc.NewServer(append(GRPCOptions(), grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(ca.Source(impostor)))))...)
	s.Register(g)
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = g.Serve(ln) })
	defer func() { cancel(); g.Stop(); s.Wait() }()

	c := NewClient(ClientOptions{
		Address: ln.Addr().String(), Token: token("ztunnel"), Role: RoleZTunnel,
		TLS: identity.ControllerClientTLS(ca.Bundle, controller),
	})
	all.Go(func() { _ = c.Run(ctx) })
	if err := c.Report(ctx, nil); err == nil {
		t.Error("reported to an impostor")
	}
	if len(asked) != 0 {
		t.Error("the token went to an impostor")
	}
}
