package meshtest

import (
	"context"
	"fmt"
	"net"
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

	dir string

	mu      sync.Mutex
	peers   map[string]configstream.Peer // by token
	reports []configstream.PodReport
	heard   chan struct{}
}

// NewControlPlane serves until the test ends.
func NewControlPlane(t testing.TB) *ControlPlane {
	t.Helper()
	cp := &ControlPlane{dir: t.TempDir(), Cluster: &ca.FakeCluster{}, peers: map[string]configstream.Peer{}, heard: make(chan struct{})}
	cert, key, err := ca.SelfSigned(TrustDomain, time.Hour)
	must(t, "root certificate", err)
	authority, err := ca.NewAuthority(ca.AuthorityOptions{TrustDomain: TrustDomain, Cert: cert, Key: key})
	must(t, "authority", err)
	self, err := authority.Self(ServiceAccount("towpath-system", "towpath-controller"))
	must(t, "controller's certificate", err)
	cp.RootFile = filepath.Join(cp.dir, "root-cert.pem")
	must(t, "root file", os.WriteFile(cp.RootFile, authority.Bundle().Marshal(), 0o600))
	cp.Config = configstream.NewServer(configstream.ServerOptions{Authenticate: cp.authenticate, OnReport: cp.onReport})
	cp.serve(t, authority, self)
	return cp
}

func (cp *ControlPlane) serve(t testing.TB, authority *ca.Authority, self identity.Source) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, "controller port", err)
	cp.Address = ln.Addr().String()
	server := grpc.NewServer(append(configstream.GRPCOptions(), grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(self))))...)
	ca.NewService(ca.ServiceOptions{Signer: authority, Authenticator: cp.Cluster, Attestor: cp.Cluster}).Register(server)
	cp.Config.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
	})
}

// ServiceAccount is an identity of the lab.
func ServiceAccount(namespace, name string) spiffeid.ID {
	id, err := identity.ForServiceAccount(TrustDomain, namespace, name)
	if err != nil {
		panic(err)
	}
	return id
}

// Token makes a bearer token for a program and returns the file it lies in. The
// program may ask for certificates of the pods on its node.
func (cp *ControlPlane) Token(t testing.TB, peer configstream.Peer, podUID string) (file string) {
	t.Helper()
	token := fmt.Sprintf("token-of-%s-%s-%s", peer.Role, peer.Namespace, peer.Pod)
	cp.mu.Lock()
	cp.peers[token] = peer
	cp.mu.Unlock()
	cp.Cluster.SetCaller(token, ca.Caller{Namespace: peer.Namespace, ServiceAccount: peer.ServiceAccount,
		PodName: peer.Pod, PodUID: podUID, NodeName: peer.Node, NodeUID: "uid-of-" + peer.Node})
	file = filepath.Join(cp.dir, token)
	must(t, "token file", os.WriteFile(file, []byte(token), 0o600))
	return file
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
