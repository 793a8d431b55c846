// Package mint makes X.509 certificates in the two profiles that SPIFFE knows,
// signing certificate and leaf. It decides nothing: who may have which
// certificate, and for how long, is its callers' business.
package mint

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Validity is a certificate's life, both ends included.
type Validity struct{ NotBefore, NotAfter time.Time }

// Issuer is a signing certificate with its key.
type Issuer struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Root makes a self-signed signing certificate of a trust domain for leaves
// only: nothing below it may sign (X509-SVID section 4).
func Root(td spiffeid.TrustDomain, key crypto.Signer, v Validity) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the name keeps successive roots apart.
		Subject: pkix.Name{
			Organization: []string{"towpath.io"},
			SerialNumber: fmt.Sprintf("%x", serial),
		},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             v.NotBefore,
		NotAfter:              v.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate of %s: %w", td, err)
	}
	return der, nil
}

// Leaf makes the certificate of one workload. It contains the identity, the key
// and nothing that a requester could have chosen besides.
func Leaf(by Issuer, id spiffeid.ID, pub crypto.PublicKey, v Validity) ([]byte, error) {
	if id.Path() == "" {
		return nil, errors.New("leaf certificate: the identity names no workload")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             v.NotBefore,
		NotAfter:              v.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by.Cert, pub, by.Key)
	if err != nil {
		return nil, fmt.Errorf("leaf certificate of %s: %w", id, err)
	}
	return der, nil
}

// newSerial returns 128 random bits, never 0 (RFC 5280 section 4.1.2.2).
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	for {
		n, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return nil, fmt.Errorf("serial number: %w", err)
		}
		if n.Sign() > 0 {
			return n, nil
		}
	}
}
