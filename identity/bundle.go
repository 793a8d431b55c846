package identity

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Bundle is the set of root certificates of one trust domain, at one point of
// its history. It is immutable. A bundle without roots is valid and trusts
// nobody (SPIFFE Trust Domain and Bundle, section 4.1.4).
type Bundle struct {
	td       spiffeid.TrustDomain
	sequence uint64
	roots    []*x509.Certificate
	pool     *x509.CertPool
}

// NewBundle makes a bundle of roots, keeping their order and dropping repeated
// ones. Each must be a CA certificate that may sign certificates and, if it
// carries a URI, names the trust domain td (X509-SVID section 4).
func NewBundle(td spiffeid.TrustDomain, sequence uint64, roots []*x509.Certificate) (*Bundle, error) {
	if td.IsZero() {
		return nil, errors.New("trust bundle: no trust domain")
	}
	b := &Bundle{td: td, sequence: sequence, pool: x509.NewCertPool()}
	for i, root := range roots {
		if err := checkSigner(td, root); err != nil {
			return nil, fmt.Errorf("trust bundle of %s: root %d: %w", td, i, err)
		}
		if b.contains(root) {
			continue
		}
		b.roots = append(b.roots, root)
		b.pool.AddCert(root)
	}
	return b, nil
}

// BundleFromDER is NewBundle for encoded certificates.
func BundleFromDER(td spiffeid.TrustDomain, sequence uint64, roots [][]byte) (*Bundle, error) {
	certs := make([]*x509.Certificate, 0, len(roots))
	for i, der := range roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("trust bundle of %s: root %d: %w", td, i, err)
		}
		certs = append(certs, c)
	}
	return NewBundle(td, sequence, certs)
}

// checkSigner applies the rules for signing certificates.
func checkSigner(td spiffeid.TrustDomain, c *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("not a CA certificate")
	}
	if c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("its key usage does not allow signing certificates")
	}
	if len(c.URIs) == 0 {
		return nil
	}
	named, err := signerDomain(c)
	if err != nil {
		return err
	}
	if named != td {
		return fmt.Errorf("it belongs to trust domain %s", named)
	}
	return nil
}

// signerDomain returns the trust domain that a signing certificate names.
func signerDomain(c *x509.Certificate) (spiffeid.TrustDomain, error) {
	if len(c.URIs) != 1 {
		return spiffeid.TrustDomain{}, fmt.Errorf("it has %d URI names, not one", len(c.URIs))
	}
	id, err := spiffeid.FromURI(c.URIs[0])
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("its URI name: %w", err)
	}
	if id.Path() != "" {
		return spiffeid.TrustDomain{}, fmt.Errorf("it carries the identity of a workload, %s", id)
	}
	return id.TrustDomain(), nil
}

func (b *Bundle) contains(c *x509.Certificate) bool {
	for _, r := range b.roots {
		if r.Equal(c) {
			return true
		}
	}
	return false
}

// TrustDomain returns the domain whose roots these are.
func (b *Bundle) TrustDomain() spiffeid.TrustDomain { return b.td }

// Sequence grows with every change of the trust domain's roots. 0 is the
// sequence of a bundle that nobody has numbered.
func (b *Bundle) Sequence() uint64 { return b.sequence }

// Roots returns the certificates; the slice is the caller's.
func (b *Bundle) Roots() []*x509.Certificate {
	return append([]*x509.Certificate(nil), b.roots...)
}

// DER returns the encoded certificates. The encodings must not be changed.
func (b *Bundle) DER() [][]byte {
	out := make([][]byte, len(b.roots))
	for i, r := range b.roots {
		out[i] = r.Raw
	}
	return out
}

// Equal reports whether both are the same roots at the same sequence; the order
// of the roots does not matter. Nil equals nil only.
func (b *Bundle) Equal(other *Bundle) bool {
	if b == nil || other == nil {
		return b == other
	}
	if b.td != other.td || b.sequence != other.sequence || len(b.roots) != len(other.roots) {
		return false
	}
	for _, r := range b.roots {
		if !other.contains(r) {
			return false
		}
	}
	return true
}

// String names the bundle for logs.
func (b *Bundle) String() string {
	if b == nil {
		return "no bundle"
	}
	return fmt.Sprintf("%s, sequence %d, %d roots", b.td, b.sequence, len(b.roots))
}
