package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/internal/issuepb"
)

const (
	// DefaultRate and DefaultBurst bound the requests of one node: enough for a
	// node with 250 service accounts to get all its certificates within
	// seconds, and for one that renews them ten times over.
	DefaultRate  = 10.0 // a second
	DefaultBurst = 250
	maxTokenLen  = 16 << 10
	maxCSRLen    = 4 << 10
	maxPodUIDLen = 64
)

// A Signer certifies keys. *Authority is the built-in one.
type Signer interface {
	Sign(csrDER []byte, id spiffeid.ID, ttl time.Duration) (chain [][]byte, err error)
	Bundle() *identity.Bundle
}

// ServiceOptions configure a Service. Signer, Authenticator and Attestor are
// required; zero values of the others have the meanings given.
type ServiceOptions struct {
	Signer        Signer
	Authenticator Authenticator
	Attestor      Attestor
	// Rate is how many requests a second one node may make in the long run,
	// Burst how many at once; 0 for DefaultRate and DefaultBurst.
	Rate  float64
	Burst int
	// Log takes the audit lines; nil for slog.Default.
	Log *slog.Logger
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
}

// Service answers requests for certificates. Each one, granted or refused,
// leaves exactly one line in the log.
type Service struct {
	signer  Signer
	authn   Authenticator
	attest  Attestor
	log     *slog.Logger
	nodes   nodeLimits
	keys    keyLedger
	metrics metrics
}

// NewService makes a Service. It panics if its metrics are registered already.
func NewService(o ServiceOptions) *Service {
	if o.Rate <= 0 {
		o.Rate = DefaultRate
	}
	if o.Burst <= 0 {
		o.Burst = DefaultBurst
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Service{
		signer:  o.Signer,
		authn:   o.Authenticator,
		attest:  o.Attestor,
		log:     o.Log,
		nodes:   nodeLimits{limit: rate.Limit(o.Rate), burst: o.Burst, nodes: make(map[string]*rate.Limiter)},
		keys:    keyLedger{keys: make(map[[32]byte]ledgerEntry)},
		metrics: newMetrics(o.Registry),
	}
}

// Register mounts the service on a gRPC server, which must be reachable over
// TLS only: the requests carry tokens.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	issuepb.RegisterCertificatesServer(r, handler{s: s})
}

// handler keeps the generated method set off Service.
type handler struct {
	issuepb.UnimplementedCertificatesServer
	s *Service
}

// issuance is one request on its way through the checks.
type issuance struct {
	caller Caller
	podUID string
	id     spiffeid.ID
	leaf   *x509.Certificate
}

// Issue implements issuepb.CertificatesServer.
func (h handler) Issue(ctx context.Context, req *issuepb.IssueRequest) (*issuepb.IssueResponse, error) {
	var i issuance
	resp, err := h.s.issue(ctx, req, &i)
	if err != nil {
		return nil, h.s.refused(ctx, &i, err)
	}
	h.s.issued(ctx, &i)
	return resp, nil
}

// issue runs the checks in the order of their cost to us and their worth to an
// attacker: who, how often, what for, with which key.
func (s *Service) issue(ctx context.Context, req *issuepb.IssueRequest, i *issuance) (*issuepb.IssueResponse, error) {
	if err := s.authenticate(ctx, i); err != nil {
		return nil, err
	}
	if !s.nodes.allow(i.caller.NodeName, time.Now()) {
		return nil, refuse(reasonRate, errors.New("too many requests from this node"))
	}
	if err := s.attestPod(ctx, req.GetPodUid(), i); err != nil {
		return nil, err
	}
	return s.sign(req, i)
}

func (s *Service) authenticate(ctx context.Context, i *issuance) (err error) {
	token, err := bearer(ctx)
	if err != nil {
		return refuse(reasonToken, err)
	}
	i.caller, err = s.authn.Authenticate(ctx, token)
	switch {
	case errors.Is(err, ErrUnauthenticated):
		return refuse(reasonToken, err)
	case err != nil:
		return refuse(reasonUnavailable, err)
	case !i.caller.complete():
		return refuse(reasonToken, errors.New("the token is not bound to a pod on a node"))
	}
	return nil
}

// bearer returns the token of a request (RFC 6750 section 2.1).
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return "", errors.New("not exactly one authorization entry")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxTokenLen {
		return "", errors.New("authorization is not a bearer token")
	}
	return token, nil
}

func (s *Service) attestPod(ctx context.Context, asked string, i *issuance) (err error) {
	if len(asked) > maxPodUIDLen {
		return refuse(reasonRequest, errors.New("the pod UID is too long"))
	}
	i.podUID = asked
	if i.podUID == "" {
		i.podUID = i.caller.PodUID
	}
	id, err := s.attest.Attest(ctx, i.caller, i.podUID)
	switch {
	case errors.Is(err, ErrDenied):
		return refuse(reasonDenied, err)
	case errors.Is(err, ErrUnknownPod):
		return refuse(reasonUnknownPod, err)
	case err != nil:
		return refuse(reasonUnavailable, err)
	}
	if _, _, ok := identity.ServiceAccountOf(id); !ok {
		return refuse(reasonDenied, errors.New("the pod has no identity"))
	}
	i.id = id
	return nil
}

func (s *Service) sign(req *issuepb.IssueRequest, i *issuance) (*issuepb.IssueResponse, error) {
	csr := req.GetCsrDer()
	if len(csr) > maxCSRLen {
		return nil, refuse(reasonRequest, errors.New("the certification request is too long"))
	}
	pub, err := requestKey(csr)
	if err != nil {
		return nil, refuse(reasonRequest, err)
	}
	chain, err := s.signer.Sign(csr, i.id, time.Duration(req.GetTtlSeconds())*time.Second)
	if err != nil {
		return nil, refuse(reasonAuthority, err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, refuse(reasonAuthority, err)
	}
	// Claimed last, so that only keys that were certified are remembered.
	if err := s.keys.claim(pub, i.id, time.Now(), leaf.NotAfter); err != nil {
		return nil, refuse(reasonKey, err)
	}
	i.leaf = leaf
	bundle := s.signer.Bundle()
	return &issuepb.IssueResponse{
		ChainDer:       chain,
		BundleDer:      bundle.DER(),
		BundleSequence: bundle.Sequence(),
		NotAfter:       timestamppb.New(leaf.NotAfter),
	}, nil
}
