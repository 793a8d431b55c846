package svid_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/identity/svid"
)

var controllerID = spiffeid.RequireFromString("spiffe://cluster.local/ns/towpath-system/sa/towpath-controller")

// controller is the real certificate service on TLS, with the cluster faked.
type controller struct {
	authority *ca.Authority
	cluster   *ca.FakeCluster
	listener  *bufconn.Listener
}

// startController returns a controller and what stops it.
func startController(t *testing.T) (*controller, func()) {
	t.Helper()
	cert, key, err := ca.SelfSigned(td, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{cluster: new(ca.FakeCluster), listener: bufconn.Listen(1 << 16)}
	if c.authority, err = ca.NewAuthority(ca.AuthorityOptions{TrustDomain: td, Cert: cert, Key: key}); err != nil {
		t.Fatal(err)
	}
	self, err := c.authority.Self(controllerID)
	if err != nil {
		t.Fatal(err)
	}
	c.cluster.SetCaller("token-1", ca.Caller{Namespace: "towpath-system", ServiceAccount: "towpath-ztunnel",
		PodName: "ztunnel-x", PodUID: "z1", NodeName: "node-1", NodeUID: "n1"})
	c.cluster.SetPod("z1", spiffeid.RequireFromString("spiffe://cluster.local/ns/towpath-system/sa/towpath-ztunnel"), "node-1")
	c.cluster.SetPod("p1", web, "node-1")
	c.cluster.SetPod("p2", db, "node-1")
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(self))))
	ca.NewService(ca.ServiceOptions{Signer: c.authority, Authenticator: c.cluster, Attestor: c.cluster, Log: quiet()}).Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(c.listener) }()
	return c, func() {
		server.Stop()
		<-done
	}
}

// dial connects to the controller as a proxy does that expects id there.
func (c *controller) dial(t *testing.T, id spiffeid.ID) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///towpath-controller.towpath-system:15012",
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ControllerClientTLS(c.authority.Bundle, id))),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func token(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// TestEndToEnd: two pods get certificates from a real service over TLS, talk to
// each other with them, and do so still after a day of renewals.
func TestEndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stopController := startController(t)
		defer stopController()
		conn := c.dial(t, controllerID)
		defer conn.Close()
		m := svid.NewManager(svid.ManagerOptions{Issuer: svid.NewClient(conn, token("token-1")), TTL: time.Hour, Log: quiet()})
		defer run(t, m)()

		webSource, dbSource := must(m.Hold(t.Context(), "p1", web)), must(m.Hold(t.Context(), "p2", db))
		own := must(svid.Self(t.Context(), m, spiffeid.RequireFromString("spiffe://cluster.local/ns/towpath-system/sa/towpath-ztunnel")))
		client, server := identity.ClientTLS(webSource, identity.OneOf(db)), identity.ServerTLS(dbSource, identity.OneOf(web))
		first := current(t, webSource)
		for range 12 {
			if err := handshake(client, server); err != nil {
				t.Fatal(err)
			}
			advance(time.Hour)
		}
		if current(t, webSource).Serial() == first.Serial() {
			t.Error("never renewed")
		}
		current(t, own)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func handshake(client, server *tls.Config) error {
	cc, sc := net.Pipe()
	defer cc.Close()
	defer sc.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(sc, server).Handshake() }()
	err := tls.Client(cc, client).Handshake()
	return errors.Join(err, <-done)
}

func TestClientErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stopController := startController(t)
		defer stopController()
		conn := c.dial(t, controllerID)
		defer conn.Close()
		for _, tc := range []struct {
			name  string
			token func() (string, error)
			req   svid.Request
			code  codes.Code
			text  string
		}{
			{"granted", token("token-1"), svid.Request{PodUID: "p1", ID: web}, codes.OK, ""},
			{"bad token", token("x"), svid.Request{PodUID: "p1", ID: web}, codes.Unauthenticated, "refused: token"},
			{"unknown pod", token("token-1"), svid.Request{PodUID: "p9", ID: web}, codes.NotFound, "unknown_pod"},
			{"pod of another identity", token("token-1"), svid.Request{PodUID: "p2", ID: web}, codes.Unknown, "unusable answer"},
			{"other trust domain", token("token-1"), svid.Request{PodUID: "p1", ID: spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")}, codes.Unknown, "unusable answer"},
			{"no token", func() (string, error) { return "", errors.New("no such file") }, svid.Request{PodUID: "p1", ID: web}, codes.Unknown, "no such file"},
		} {
			m, err := svid.NewClient(conn, tc.token).Issue(t.Context(), tc.req)
			if tc.code == codes.OK {
				if err != nil || m.ID() != tc.req.ID {
					t.Errorf("%s: %s, %v", tc.name, m, err)
				}
				continue
			}
			if status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %v, want %s with %q", tc.name, err, tc.code, tc.text)
			}
		}
	})
}

// TestClientChecksTheController: the token must not reach anybody else.
func TestClientChecksTheController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stopController := startController(t)
		defer stopController()
		conn := c.dial(t, web)
		defer conn.Close()
		_, err := svid.NewClient(conn, token("token-1")).Issue(t.Context(), svid.Request{PodUID: "p1", ID: web})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not expected") {
			t.Errorf("error %v", err)
		}
	})
}
