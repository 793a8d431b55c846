package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/internal/mint"
)

// SelfSigned makes a new root: an ECDSA P-256 key and its certificate, valid
// for lifetime from now, both in PEM (PKCS #8). The private key is in the
// caller's hands.
func SelfSigned(td spiffeid.TrustDomain, lifetime time.Duration) (certPEM, keyPEM []byte, err error) {
	if td.IsZero() {
		return nil, nil, errors.New("self-signed root: no trust domain")
	}
	key, err := newECDSA()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	der, err := mint.Root(td, key, mint.Validity{NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime)})
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("self-signed root of %s: encoding the key: %w", td, err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM, nil
}

func newECDSA() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a P-256 key: %w", err)
	}
	return k, nil
}

// load checks options and makes a signer of them.
func load(o AuthorityOptions, now time.Time) (*signer, error) {
	if o.TrustDomain.IsZero() {
		return nil, errors.New("no trust domain")
	}
	chain, err := identity.ParseCertificates(o.Cert)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	key, err := parseKey(o.Key)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the signing key is not the key of the signing certificate")
	}
	bundle, err := rootsOf(o, chain)
	if err != nil {
		return nil, err
	}
	if err := checkChain(chain, bundle, now); err != nil {
		return nil, err
	}
	s := &signer{
		td:         o.TrustDomain,
		issuer:     mint.Issuer{Cert: chain[0], Key: key},
		notAfter:   chain[0].NotAfter,
		bundle:     bundle,
		defaultTTL: DefaultTTL,
		maxTTL:     MaxTTL,
	}
	s.bound(chain)
	return s, s.limits(o)
}

// bound finds the shortest life in the chain, and what of it goes to peers.
func (s *signer) bound(chain []*x509.Certificate) {
	for _, c := range chain {
		if c.NotAfter.Before(s.notAfter) {
			s.notAfter = c.NotAfter
		}
		if !selfSigned(c) {
			s.intermediates = append(s.intermediates, c.Raw)
		}
	}
}

func (s *signer) limits(o AuthorityOptions) error {
	if o.MaxTTL > 0 {
		s.maxTTL = o.MaxTTL
	}
	if o.DefaultTTL > 0 {
		s.defaultTTL = o.DefaultTTL
	}
	s.defaultTTL = min(s.defaultTTL, s.maxTTL)
	if s.maxTTL < minTTL {
		return fmt.Errorf("maximum TTL %s is below %s", s.maxTTL, minTTL)
	}
	return nil
}

// rootsOf returns the configured bundle, or the one that follows from a chain
// that includes its root.
func rootsOf(o AuthorityOptions, chain []*x509.Certificate) (*identity.Bundle, error) {
	// The rules for roots are those for every signing certificate.
	if _, err := identity.NewBundle(o.TrustDomain, 0, chain); err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	if o.Bundle != nil {
		if td := o.Bundle.TrustDomain(); td != o.TrustDomain {
			return nil, fmt.Errorf("the bundle belongs to trust domain %s", td)
		}
		return o.Bundle, nil
	}
	root := chain[len(chain)-1]
	if !selfSigned(root) {
		return nil, errors.New("no bundle is given and the signing chain ends without a root")
	}
	return identity.NewBundle(o.TrustDomain, 0, []*x509.Certificate{root})
}

// checkChain verifies the way from the signing certificate to the bundle.
func checkChain(chain []*x509.Certificate, bundle *identity.Bundle, now time.Time) error {
	for _, c := range chain {
		if now.After(c.NotAfter) {
			return fmt.Errorf("%w: valid until %s", ErrExhausted, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range bundle.Roots() {
		roots.AddCert(r)
	}
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("the signing certificate does not lead to a root of the bundle: %w", err)
	}
	return nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// parseKey reads a private key. It never puts what it read into an error.
func parseKey(text []byte) (*identity.Key, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "EC PARAMETERS": // openssl writes the curve before the key
			continue
		case "EC PRIVATE KEY":
			k, err := x509.ParseECPrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("unreadable EC private key")
			}
			return identity.Hide(k), nil
		case "PRIVATE KEY":
			return parsePKCS8(block.Bytes)
		default:
			return nil, fmt.Errorf("PEM block of type %q, want PRIVATE KEY", block.Type)
		}
	}
	return nil, errors.New("no PEM block in it")
}

func parsePKCS8(der []byte) (*identity.Key, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("unreadable PKCS #8 private key")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	return identity.Hide(s), nil
}

// checkLeafKey allows the key types that every peer can verify quickly.
func checkLeafKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("its key is neither ECDSA P-256 nor Ed25519")
}
