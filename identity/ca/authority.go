package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/internal/mint"
)

const (
	// DefaultTTL is the life of a leaf for which nobody asked for another: at
	// renewal by half-life the mesh survives a CA outage of 2.4 hours or more.
	DefaultTTL = 6 * time.Hour
	// MaxTTL is the longest life granted unless configured otherwise.
	MaxTTL = 24 * time.Hour
	// backdate is how far NotBefore lies in the past, for peers whose clocks
	// are behind.
	backdate = 2 * time.Minute
	// minTTL is the shortest life worth granting. An authority about to expire
	// refuses instead of handing out certificates that die on the way.
	minTTL = 10 * time.Second
)

// ErrExhausted says that the authority itself is about to expire, or has.
var ErrExhausted = errors.New("certificate authority has expired")

// AuthorityOptions configure an Authority. Zero values have the meanings given.
type AuthorityOptions struct {
	TrustDomain spiffeid.TrustDomain
	// Cert is the signing certificate in PEM, followed by intermediates up to
	// its root if it is not a root itself (with or without the root).
	Cert []byte
	// Key is the signing key in PEM: PKCS #8, or SEC 1 for ECDSA.
	Key []byte
	// Bundle is all roots to be trusted. Nil: the last certificate of Cert
	// alone, unnumbered, which then must be self-signed.
	Bundle *identity.Bundle
	// DefaultTTL and MaxTTL of leaves; 0 for the constants of that name.
	DefaultTTL, MaxTTL time.Duration
}

// An Authority signs leaf certificates of one trust domain with a key that it
// holds in memory. It is safe for concurrent use.
type Authority struct {
	now atomic.Pointer[signer]
}

// signer is what an Authority consists of between two Reloads. Immutable.
type signer struct {
	td            spiffeid.TrustDomain
	issuer        mint.Issuer
	intermediates [][]byte // the issuer first, without the root
	notAfter      time.Time
	bundle        *identity.Bundle
	defaultTTL    time.Duration
	maxTTL        time.Duration
}

// NewAuthority checks the key pair and takes it into use. It fails with one
// error that names the fault: unreadable PEM, a key that is not the
// certificate's, no CA certificate, another trust domain, expired, or not
// leading to a root of the bundle.
func NewAuthority(o AuthorityOptions) (*Authority, error) {
	s, err := load(o, time.Now())
	if err != nil {
		return nil, fmt.Errorf("certificate authority of %s: %w", o.TrustDomain, err)
	}
	a := new(Authority)
	a.now.Store(s)
	return a, nil
}

// Reload replaces key pair and bundle as a whole. It fails as NewAuthority
// does, and for a bundle older than the present one; then nothing changes. It
// must not be called concurrently with itself.
func (a *Authority) Reload(o AuthorityOptions) error {
	s, err := load(o, time.Now())
	if err != nil {
		return fmt.Errorf("certificate authority of %s: %w", o.TrustDomain, err)
	}
	held := a.now.Load()
	if s.td != held.td {
		return fmt.Errorf("certificate authority of %s cannot become one of %s", held.td, s.td)
	}
	if s.bundle.Sequence() < held.bundle.Sequence() {
		return fmt.Errorf("certificate authority of %s: %w", s.td, identity.ErrStaleBundle)
	}
	a.now.Store(s)
	return nil
}

// TrustDomain is the domain whose identities the authority certifies.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.now.Load().td }

// Bundle returns all roots that relying parties are to trust now.
func (a *Authority) Bundle() *identity.Bundle { return a.now.Load().bundle }

// NotAfter is when the first certificate of the signing chain expires.
func (a *Authority) NotAfter() time.Time { return a.now.Load().notAfter }

// Sign issues a leaf for id with the public key of a PKCS #10 request, whose
// subject, names and extensions are ignored. ttl is the life wanted: 0 for the
// default; more than the maximum, or than the authority has left itself, is
// cut. The chain starts with the leaf and leaves out the root.
func (a *Authority) Sign(csrDER []byte, id spiffeid.ID, ttl time.Duration) (chain [][]byte, err error) {
	pub, err := requestKey(csrDER)
	if err != nil {
		return nil, err
	}
	return a.now.Load().sign(pub, id, ttl, time.Now())
}

func (s *signer) sign(pub crypto.PublicKey, id spiffeid.ID, ttl time.Duration, now time.Time) ([][]byte, error) {
	if id.TrustDomain() != s.td {
		return nil, fmt.Errorf("certificate for %s: not a member of trust domain %s", id, s.td)
	}
	until, err := s.until(now, ttl)
	if err != nil {
		return nil, err
	}
	der, err := mint.Leaf(s.issuer, id, pub, mint.Validity{NotBefore: now.Add(-backdate), NotAfter: until})
	if err != nil {
		return nil, err
	}
	return append([][]byte{der}, s.intermediates...), nil
}

// until bounds the end of a leaf's life.
func (s *signer) until(now time.Time, ttl time.Duration) (time.Time, error) {
	if ttl <= 0 {
		ttl = s.defaultTTL
	}
	end := now.Add(min(max(ttl, minTTL), s.maxTTL))
	if end.After(s.notAfter) {
		end = s.notAfter
	}
	if end.Sub(now) < minTTL {
		return time.Time{}, fmt.Errorf("%w: valid until %s", ErrExhausted, s.notAfter.UTC().Format(time.RFC3339))
	}
	return end, nil
}

// requestKey checks a certification request and returns its public key.
func requestKey(csrDER []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("certification request: %w", err)
	}
	if err := checkLeafKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("certification request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certification request: %w", err)
	}
	return csr.PublicKey, nil
}
