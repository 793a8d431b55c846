package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrNoCertificate is returned by a Source that has nothing yet, or nothing
	// any more because its identity was given up.
	ErrNoCertificate = errors.New("no certificate")
	// ErrExpired is returned by a Source whose certificate could not be renewed
	// in time.
	ErrExpired = errors.New("certificate has expired")
)

// A Source hands out the current certificate and bundle of one identity. It
// must not block: handshakes call it.
type Source interface {
	Current() (*Material, error)
}

// Material is what a process needs to speak as one identity: certificate chain,
// private key, and the roots by which to judge peers. It is immutable and never
// prints its key.
type Material struct {
	id     spiffeid.ID
	cert   tls.Certificate
	bundle *Bundle
}

// NewMaterial puts together a certificate chain (leaf first, DER), its key and
// a bundle. It fails if the leaf is no X.509-SVID, if key is not the leaf's,
// or if the chain does not lead to a root of the bundle at time now.
func NewMaterial(chain [][]byte, key crypto.Signer, bundle *Bundle, now time.Time) (*Material, error) {
	if bundle == nil {
		return nil, errors.New("certificate: no trust bundle")
	}
	certs := make([]*x509.Certificate, 0, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i, err)
		}
		certs = append(certs, c)
	}
	id, err := verifyChain(certs, bundle, now, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	pub, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("certificate of %s: it was issued for another key", id)
	}
	return &Material{
		id:     id,
		cert:   tls.Certificate{Certificate: chain, PrivateKey: Hide(key), Leaf: certs[0]},
		bundle: bundle,
	}, nil
}

// ID is the identity that the certificate proves.
func (m *Material) ID() spiffeid.ID { return m.id }

// Bundle is the set of roots that goes with the certificate.
func (m *Material) Bundle() *Bundle { return m.bundle }

// Leaf is the parsed certificate; it must not be changed.
func (m *Material) Leaf() *x509.Certificate { return m.cert.Leaf }

// NotAfter is the end of the certificate's life.
func (m *Material) NotAfter() time.Time { return m.cert.Leaf.NotAfter }

// Serial is the certificate's serial number in hexadecimal.
func (m *Material) Serial() string { return fmt.Sprintf("%x", m.cert.Leaf.SerialNumber) }

// WithBundle returns the same certificate with other roots.
func (m *Material) WithBundle(b *Bundle) *Material {
	return &Material{id: m.id, cert: m.cert, bundle: b}
}

// VerifyWith checks that peers who trust exactly b would accept the certificate
// at time now.
func (m *Material) VerifyWith(b *Bundle, now time.Time) error {
	certs := []*x509.Certificate{m.cert.Leaf}
	for _, der := range m.cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate chain of %s: %w", m.id, err)
		}
		certs = append(certs, c)
	}
	_, err := verifyChain(certs, b, now, x509.ExtKeyUsageServerAuth)
	return err
}

// String names the material for logs, without its key.
func (m *Material) String() string {
	if m == nil {
		return "no certificate"
	}
	return fmt.Sprintf("%s, serial %s, until %s", m.id, m.Serial(), m.NotAfter().UTC().Format(time.RFC3339))
}

// Format keeps every verb of package fmt from walking into the key.
func (m *Material) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(m.String())) }

// LogValue implements slog.LogValuer.
func (m *Material) LogValue() slog.Value { return slog.StringValue(m.String()) }

// A Store is a Source that somebody else fills: one published value that is
// replaced as a whole. The zero value holds none. It must not be copied.
type Store struct {
	now atomic.Pointer[Material]
}

// Set publishes m; nil withdraws what was published.
func (s *Store) Set(m *Material) { s.now.Store(m) }

// Peek returns what was published, expired or not; nil if nothing is.
func (s *Store) Peek() *Material { return s.now.Load() }

// Current implements Source. Its error is ErrNoCertificate or ErrExpired.
func (s *Store) Current() (*Material, error) {
	m := s.now.Load()
	if m == nil {
		return nil, ErrNoCertificate
	}
	if time.Now().After(m.NotAfter()) {
		return nil, fmt.Errorf("%w: %s", ErrExpired, m)
	}
	return m, nil
}
