package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Why a handshake was refused, for errors.Is. The error itself tells details.
var (
	// ErrNotSVID: the peer's certificate breaks a rule of X509-SVID.
	ErrNotSVID = errors.New("peer certificate is no X.509-SVID")
	// ErrUntrusted: no chain to a current root of the peer's trust domain.
	ErrUntrusted = errors.New("peer certificate is not trusted")
	// ErrNotExpected: the peer proved its identity, and the Matcher refused it.
	ErrNotExpected = errors.New("peer is not expected here")
)

// verifyPeer is the whole judgement of a peer: certificate, roots, Matcher.
// usage is the direction: clientAuth when the peer is a client.
func verifyPeer(certs []*x509.Certificate, b *Bundle, usage x509.ExtKeyUsage, m Matcher) error {
	id, err := verifyChain(certs, b, time.Now(), usage)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: %s: nobody is", ErrNotExpected, id)
	}
	if err := m(id); err != nil {
		return fmt.Errorf("%w: %w", ErrNotExpected, err)
	}
	return nil
}

// verifyChain checks that certs (leaf first) prove an identity of b's trust
// domain (X509-SVID section 5: path validation, then leaf validation).
func verifyChain(certs []*x509.Certificate, b *Bundle, now time.Time, usage x509.ExtKeyUsage) (spiffeid.ID, error) {
	if len(certs) == 0 {
		return spiffeid.ID{}, fmt.Errorf("%w: none was sent", ErrNotSVID)
	}
	leaf := certs[0]
	id, err := leafID(leaf)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrNotSVID, err)
	}
	if b == nil || b.td != id.TrustDomain() {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: no trust bundle of its trust domain", ErrUntrusted, id)
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         b.pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: %w", ErrUntrusted, id, err)
	}
	return id, nil
}

// leafID returns the identity in a leaf certificate after the checks of
// X509-SVID sections 2, 4 and 5.2 that need no other certificate.
func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("%d URI names, not one", len(leaf.URIs))
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("URI name: %w", err)
	}
	switch {
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%s names a trust domain, not a workload", id)
	case leaf.IsCA:
		return spiffeid.ID{}, fmt.Errorf("%s: a CA certificate", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, fmt.Errorf("%s: key usage without digitalSignature", id)
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("%s: key usage of a signing certificate", id)
	}
	return id, nil
}
