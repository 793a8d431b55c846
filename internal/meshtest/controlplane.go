package meshtest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/internal/configstream"
)

// TrustDomain of the lab.
var TrustDomain = spiffeid.RequireTrustDomainFromString("lab.test")

// ControlPlane is what proxies see of a controller: certificates and the config
// stream on one TLS port. Who may have what, and what the world looks like, a
// test says directly; the real certificate authority and the real stream do the
// rest.
type ControlPlane struct {
	// Address to dial, and the file with the root certificates.
	Address, RootFile string
	// Who is who for the certificate service.
	Cluster *ca.FakeCluster
	Config  *configstream.Server

	dir       string
	authority *ca.Authority
	server    *grpc.Server
	served    chan error

	mu      sync.Mutex
	peers   map[string]configstream.Peer // by token
	reports []configstream.PodReport
	heard   chan struct{}
}

// NewControlPlane serves until the test ends.
func NewControlPlane(t testing.TB, listen netip.Addr) *ControlPlane {
	t.Helper()
	cp, err := StartControlPlane(publicDir(t), listen)
	must(t, "control plane", err)
	t.Cleanup(func() { must(t, "control plane", cp.Close()) })
	return cp
}

// StartControlPlane serves on a free port of the address until Close, and keeps
// its files in dir.
func StartControlPlane(dir string, listen netip.Addr) (*ControlPlane, error) {
	cp := &ControlPlane{dir: dir, Cluster: &ca.FakeCluster{}, peers: map[string]configstream.Peer{}, heard: make(chan struct{})}
	cert, key, err := ca.SelfSigned(TrustDomain, time.Hour)
	if err != nil {
		return nil, err
	}
	authority, err := ca.NewAuthority(ca.AuthorityOptions{TrustDomain: TrustDomain, Cert: cert, Key: key})
	if err != nil {
		return nil, err
	}
	cp.authority = authority
	self, err := authority.Self(ServiceAccount("towpath-system", "towpath-controller"))
	if err != nil {
		return nil, err
	}
	cp.RootFile = filepath.Join(dir, "root-cert.pem")
	if err := os.WriteFile(cp.RootFile, authority.Bundle().Marshal(), 0o644); err != nil {
		return nil, err
	}
	cp.Config = configstream.NewServer(configstream.ServerOptions{Authenticate: cp.authenticate, OnReport: cp.onReport})
	return cp, cp.serve(netip.AddrPortFrom(listen, 0), authority, self)
}

func (cp *ControlPlane) serve(addr netip.AddrPort, authority *ca.Authority, self identity.Source) error {
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		return err
	}
	cp.Address = ln.Addr().String()
	cp.server = grpc.NewServer(append(configstream.GRPCOptions(), grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(self))))...)
	ca.NewService(ca.ServiceOptions{Signer: authority, Authenticator: cp.Cluster, Attestor: cp.Cluster,
		Log: slog.New(slog.DiscardHandler)}).Register(cp.server)
	cp.Config.Register(cp.server)
	cp.served = make(chan error, 1)
	go func() { cp.served <- cp.server.Serve(ln) }()
	return nil
}

// Stop cuts all streams and answers nobody any more.
func (cp *ControlPlane) Stop() { cp.server.Stop() }

// Close stops the server and waits for it.
func (cp *ControlPlane) Close() error {
	cp.server.Stop()
	return <-cp.served
}

// ServiceAccount is an identity of the lab.
func ServiceAccount(namespace, name string) spiffeid.ID {
	id, err := identity.ForServiceAccount(TrustDomain, namespace, name)
	if err != nil {
		panic(err)
	}
	return id
}

// Source is a certificate of the lab's authority for somebody without a
// program: a test that dials tunnels itself.
func (cp *ControlPlane) Source(id spiffeid.ID) (identity.Source, error) {
	return cp.authority.Self(id)
}

// Token makes a bearer token for a program and returns the file it lies in. The
// program may ask for certificates of the pods on its node.
func (cp *ControlPlane) Token(peer configstream.Peer, podUID string) (file string, err error) {
	token := fmt.Sprintf("token-of-%s-%s-%s", peer.Role, peer.Namespace, peer.Pod)
	cp.mu.Lock()
	cp.peers[token] = peer
	cp.mu.Unlock()
	cp.Cluster.SetCaller(token, ca.Caller{Namespace: peer.Namespace, ServiceAccount: peer.ServiceAccount,
		PodName: peer.Pod, PodUID: podUID, NodeName: peer.Node, NodeUID: "uid-of-" + peer.Node})
	file = filepath.Join(cp.dir, token)
	return file, os.WriteFile(file, []byte(token), 0o644)
}

func (cp *ControlPlane) authenticate(_ context.Context, token string) (configstream.Peer, error) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	p, ok := cp.peers[token]
	if !ok {
		return p, fmt.Errorf("unknown token")
	}
	return p, nil
}

func (cp *ControlPlane) onReport(_ context.Context, _ configstream.Peer, pods []configstream.PodReport) error {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.reports = append(cp.reports, pods...)
	close(cp.heard)
	cp.heard = make(chan struct{})
	return nil
}

// WaitReport returns when the node agent's newest report of the pod says so.
func (cp *ControlPlane) WaitReport(ctx context.Context, id string, enrolled bool) error {
	for {
		last, heard := cp.lastReport(id)
		if last != nil && last.Enrolled == enrolled {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pod %s: enrolled %t was not reported; newest: %+v", id, enrolled, last)
		case <-heard:
		}
	}
}

func (cp *ControlPlane) lastReport(id string) (*configstream.PodReport, <-chan struct{}) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	var last *configstream.PodReport
	for i := range cp.reports {
		if string(cp.reports[i].ID) == id {
			last = &cp.reports[i]
		}
	}
	return last, cp.heard
}
