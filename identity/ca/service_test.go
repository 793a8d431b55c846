package ca_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/identity/internal/issuepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Service behind an in-memory connection.
type rig struct {
	t        *testing.T
	cluster  *ca.FakeCluster
	log      *bytes.Buffer // to be read between calls only
	registry *prometheus.Registry
	client   issuepb.CertificatesClient
	signer   *ca.Authority
}

func newRig(t *testing.T, edit func(*ca.ServiceOptions)) *rig {
	t.Helper()
	r := &rig{t: t, cluster: new(ca.FakeCluster), log: new(bytes.Buffer), registry: prometheus.NewRegistry(), signer: authority(t, time.Hour)}
	r.cluster.SetCaller("agent-1", ca.Caller{Namespace: "towpath-system", ServiceAccount: "towpath-ztunnel",
		PodName: "ztunnel-1", PodUID: "z1", NodeName: "node-1", NodeUID: "n1"})
	r.cluster.SetCaller("waypoint", ca.Caller{Namespace: "shop", ServiceAccount: "waypoint",
		PodName: "waypoint-x", PodUID: "w1", NodeName: "node-2", NodeUID: "n2"})
	r.cluster.SetPod("p1", web, "node-1")
	r.cluster.SetPod("p2", db, "node-2")
	r.cluster.SetPod("p3", db, "node-1")
	r.cluster.SetPod("w1", spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/waypoint"), "node-2")
	o := ca.ServiceOptions{Signer: r.signer, Authenticator: r.cluster, Attestor: r.cluster,
		Log: slog.New(slog.NewJSONHandler(r.log, nil)), Registry: r.registry}
	edit(&o)
	r.serve(ca.NewService(o))
	return r
}

func (r *rig) serve(s *ca.Service) {
	ln := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	s.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:///ca", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
	})
	r.client = issuepb.NewCertificatesClient(conn)
}

func (r *rig) issue(req *issuepb.IssueRequest, headers ...string) (*issuepb.IssueResponse, error) {
	r.log.Reset()
	return r.client.Issue(metadata.AppendToOutgoingContext(r.t.Context(), headers...), req)
}

// audit returns the one line that the last call has left in the log.
func (r *rig) audit() map[string]any {
	r.t.Helper()
	lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
	var line map[string]any
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &line) != nil {
		r.t.Fatalf("audit log: %q", lines)
	}
	return line
}

func TestIssue(t *testing.T) {
	r := newRig(t, func(*ca.ServiceOptions) {})
	key := p256()
	resp, err := r.issue(&issuepb.IssueRequest{PodUid: "p1", CsrDer: csr(t, key, &x509.CertificateRequest{}), TtlSeconds: 60},
		"authorization", "Bearer agent-1")
	if err != nil {
		t.Fatal(err)
	}
	bundle := must(identity.BundleFromDER(td, resp.GetBundleSequence(), resp.GetBundleDer()))
	m, err := identity.NewMaterial(resp.GetChainDer(), key, bundle, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if m.ID() != web || !bundle.Equal(r.signer.Bundle()) || !resp.GetNotAfter().AsTime().Equal(m.NotAfter()) {
		t.Errorf("%s with %s, said to end %s", m, bundle, resp.GetNotAfter().AsTime())
	}
	if left := time.Until(m.NotAfter()); left > time.Minute || left < 30*time.Second {
		t.Errorf("life of %s, asked for a minute", left)
	}
	line := r.audit()
	caller, _ := line["caller"].(map[string]any)
	if line["msg"] != "certificate issued" || line["pod_uid"] != "p1" || line["id"] != web.String() ||
		line["serial"] != m.Serial() || caller["node"] != "node-1" {
		t.Errorf("audit line %v", line)
	}
}

func TestIssueForOneself(t *testing.T) {
	r := newRig(t, func(*ca.ServiceOptions) {})
	resp, err := r.issue(&issuepb.IssueRequest{CsrDer: csr(t, p256(), &x509.CertificateRequest{})}, "authorization", "bearer waypoint")
	if err != nil {
		t.Fatal(err)
	}
	leaf := must(x509.ParseCertificate(resp.GetChainDer()[0]))
	if got := leaf.URIs[0].String(); got != "spiffe://cluster.local/ns/shop/sa/waypoint" {
		t.Errorf("identity %s", got)
	}
}

// TestIssueRefuses has one row for each check that a request can fail.
func TestIssueRefuses(t *testing.T) {
	r := newRig(t, func(*ca.ServiceOptions) {})
	r.cluster.SetCaller("unbound", ca.Caller{Namespace: "towpath-system", ServiceAccount: "towpath-ztunnel", NodeName: "node-1", NodeUID: "n1"})
	r.cluster.SetCaller("no node uid", ca.Caller{Namespace: "towpath-system", ServiceAccount: "towpath-ztunnel", PodUID: "z1", NodeName: "node-1"})
	r.cluster.SetPod("host", spiffeid.ID{}, "node-1")
	r.cluster.SetPod("foreign", spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web"), "node-1")
	good := csr(t, p256(), &x509.CertificateRequest{})
	for _, tc := range []struct {
		name   string
		header []string
		req    *issuepb.IssueRequest
		code   codes.Code
		reason string
	}{
		{"no token", nil, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"two tokens", []string{"authorization", "Bearer agent-1", "authorization", "Bearer waypoint"},
			&issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"not a bearer token", []string{"authorization", "Basic agent-1"}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"empty token", []string{"authorization", "Bearer "}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"unknown token", []string{"authorization", "Bearer x"}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"token of no pod", []string{"authorization", "Bearer unbound"}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"token without the node's UID", []string{"authorization", "Bearer no node uid"}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: good}, codes.Unauthenticated, "token"},
		{"pod of another node", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "p2", CsrDer: good}, codes.PermissionDenied, "denied"},
		{"no such pod", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "p9", CsrDer: good}, codes.NotFound, "unknown_pod"},
		{"pod without identity", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "host", CsrDer: good}, codes.PermissionDenied, "denied"},
		{"another trust domain", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "foreign", CsrDer: good}, codes.Internal, "authority"},
		{"endless pod UID", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: strings.Repeat("p", 65), CsrDer: good}, codes.InvalidArgument, "request"},
		{"no request", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "p1"}, codes.InvalidArgument, "request"},
		{"endless request", []string{"authorization", "Bearer agent-1"}, &issuepb.IssueRequest{PodUid: "p1", CsrDer: make([]byte, 5000)}, codes.InvalidArgument, "request"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := refusals(t, r, tc.reason)
			_, err := r.issue(tc.req, tc.header...)
			if status.Code(err) != tc.code {
				t.Fatalf("%v, want %s", err, tc.code)
			}
			if line := r.audit(); line["msg"] != "certificate refused" || line["reason"] != tc.reason {
				t.Errorf("audit line %v", line)
			}
			if got := refusals(t, r, tc.reason) - before; got != 1 {
				t.Errorf("counted %v times", got)
			}
		})
	}
}

// refusals reads towpath_ca_requests_refused_total.
func refusals(t *testing.T, r *rig, reason string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "towpath_ca_requests_refused_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no series for reason %q", reason)
	return 0
}

func TestIssueWhileClusterIsAway(t *testing.T) {
	r := newRig(t, func(*ca.ServiceOptions) {})
	req := &issuepb.IssueRequest{PodUid: "p1", CsrDer: csr(t, p256(), &x509.CertificateRequest{})}
	r.cluster.SetDown(errors.New("connection refused"))
	if _, err := r.issue(req, "authorization", "Bearer agent-1"); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	} else if strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the answer shows inner matters: %v", err)
	}
	r.cluster.SetDown(nil)
	if _, err := r.issue(req, "authorization", "Bearer agent-1"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestKeyBelongsToOneIdentity replays the request of one pod for another.
func TestKeyBelongsToOneIdentity(t *testing.T) {
	r := newRig(t, func(*ca.ServiceOptions) {})
	req := csr(t, p256(), &x509.CertificateRequest{})
	for _, step := range []struct {
		pod  string
		code codes.Code
	}{{"p1", codes.OK}, {"p3", codes.PermissionDenied}, {"p1", codes.OK}} {
		_, err := r.issue(&issuepb.IssueRequest{PodUid: step.pod, CsrDer: req}, "authorization", "Bearer agent-1")
		if status.Code(err) != step.code {
			t.Errorf("%s: %v, want %s", step.pod, err, step.code)
		}
	}
}

func TestRateForEachNode(t *testing.T) {
	r := newRig(t, func(o *ca.ServiceOptions) { o.Rate, o.Burst = 1e-9, 2 })
	req := csr(t, p256(), &x509.CertificateRequest{})
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
		if _, err := r.issue(&issuepb.IssueRequest{PodUid: "p1", CsrDer: req}, "authorization", "Bearer agent-1"); status.Code(err) != want {
			t.Errorf("request %d: %v, want %s", i, err, want)
		}
	}
	_, err := r.issue(&issuepb.IssueRequest{CsrDer: csr(t, p256(), &x509.CertificateRequest{})}, "authorization", "Bearer waypoint")
	if err != nil {
		t.Errorf("another node pays for it: %v", err)
	}
}
