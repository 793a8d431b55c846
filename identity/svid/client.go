package svid

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/internal/issuepb"
)

// A Request asks for the certificate of one pod's identity.
type Request struct {
	// PodUID names the pod; empty means the pod of this process.
	PodUID string
	// ID is the identity expected. It is not sent: the authority finds it out
	// for itself, and the answer must agree.
	ID spiffeid.ID
	// TTL is the life wished for; 0 leaves it to the authority.
	TTL time.Duration
}

// An Issuer gets one certificate, with a key made for it. The Material carries
// the authority's bundle, to which the chain leads. *Client is the real one.
type Issuer interface {
	Issue(ctx context.Context, r Request) (*identity.Material, error)
}

// ErrInvalidAnswer says that the authority's answer cannot be used: another
// identity, another key, or a chain that does not lead to its own bundle.
var ErrInvalidAnswer = errors.New("unusable answer from the certificate authority")

// Client asks the controller for certificates over gRPC.
type Client struct {
	conn  grpc.ClientConnInterface
	token func() (string, error)
}

// NewClient makes a Client of a connection, which must be TLS to the verified
// controller (identity.ControllerClientTLS) and stays the caller's to close.
// token is called for each request and returns the bearer token to show; the
// kubelet replaces it now and then.
func NewClient(conn grpc.ClientConnInterface, token func() (string, error)) *Client {
	return &Client{conn: conn, token: token}
}

// Issue implements Issuer. Errors are gRPC statuses of the controller,
// ErrInvalidAnswer wrapped, or about the local token.
func (c *Client) Issue(ctx context.Context, r Request) (*identity.Material, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	token, err := c.token()
	if err != nil {
		return nil, fmt.Errorf("token for the controller: %w", err)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	resp, err := issuepb.NewCertificatesClient(c.conn).Issue(ctx, &issuepb.IssueRequest{
		PodUid:     r.PodUID,
		CsrDer:     csr,
		TtlSeconds: seconds(r.TTL),
	})
	if err != nil {
		return nil, err
	}
	m, err := material(resp, r.ID, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidAnswer, err)
	}
	return m, nil
}

// request makes a certification request that says nothing but the key.
func request(key crypto.Signer) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("certification request: %w", err)
	}
	return csr, nil
}

func seconds(d time.Duration) uint32 {
	s := int64(d / time.Second)
	return uint32(min(max(s, 0), math.MaxUint32))
}

func material(resp *issuepb.IssueResponse, id spiffeid.ID, key *identity.Key) (*identity.Material, error) {
	if len(resp.GetBundleDer()) == 0 {
		return nil, errors.New("no roots")
	}
	bundle, err := identity.BundleFromDER(id.TrustDomain(), resp.GetBundleSequence(), resp.GetBundleDer())
	if err != nil {
		return nil, err
	}
	m, err := identity.NewMaterial(resp.GetChainDer(), key, bundle, time.Now())
	if err != nil {
		return nil, err
	}
	if m.ID() != id {
		return nil, fmt.Errorf("a certificate of %s, want %s", m.ID(), id)
	}
	return m, nil
}
