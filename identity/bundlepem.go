package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A bundle in PEM is its certificates, before them lines of text that every
// reader of PEM skips:
//
//	# trust domain: cluster.local
//	# sequence: 3
//
// Without a sequence line the sequence is 0. Without a trust domain line, the
// roots must say it in their URI name.
const (
	pemDomainLine   = "# trust domain:"
	pemSequenceLine = "# sequence:"
	pemCertificate  = "CERTIFICATE"
)

var pemBegin = []byte("-----BEGIN")

// ParseBundle reads what Marshal writes, and any PEM file of roots that name
// their trust domain. It fails on an empty set (a file cut short must not pass
// for a revocation), on blocks other than certificates, and on unreadable ones.
func ParseBundle(text []byte) (*Bundle, error) { return parseBundle(text, spiffeid.TrustDomain{}) }

// ParseBundleOf is ParseBundle for files whose trust domain is known besides:
// neither a line nor the roots need to name it, and whichever does must agree.
func ParseBundleOf(td spiffeid.TrustDomain, text []byte) (*Bundle, error) {
	if td.IsZero() {
		return nil, errors.New("trust bundle: no trust domain")
	}
	return parseBundle(text, td)
}

// parseBundle reads a bundle; want is the zero trust domain if any will do.
func parseBundle(text []byte, want spiffeid.TrustDomain) (*Bundle, error) {
	td, sequence, err := parsePreamble(text)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	if !td.IsZero() && !want.IsZero() && td != want {
		return nil, fmt.Errorf("trust bundle: it is of trust domain %s, not %s", td, want)
	}
	if td.IsZero() {
		td = want
	}
	roots, err := ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	if td.IsZero() {
		if td, err = signerDomain(roots[0]); err != nil {
			return nil, fmt.Errorf("trust bundle: no line %q, and of its first root: %w", pemDomainLine, err)
		}
	}
	return NewBundle(td, sequence, roots)
}

// parsePreamble reads the lines before the first certificate.
func parsePreamble(text []byte) (td spiffeid.TrustDomain, sequence uint64, err error) {
	head, _, _ := bytes.Cut(text, pemBegin)
	for line := range strings.Lines(string(head)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, pemDomainLine); ok {
			if td, err = spiffeid.TrustDomainFromString(strings.TrimSpace(v)); err != nil {
				return td, 0, fmt.Errorf("line %q: %w", line, err)
			}
		}
		if v, ok := strings.CutPrefix(line, pemSequenceLine); ok {
			if sequence, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64); err != nil {
				return td, 0, fmt.Errorf("line %q: %w", line, err)
			}
		}
	}
	return td, sequence, nil
}

// ParseCertificates reads one certificate or more in PEM, and nothing else.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != pemCertificate {
			return nil, fmt.Errorf("PEM block %d is not a certificate", len(certs))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs), err)
		}
		certs = append(certs, c)
	}
	if bytes.Contains(text, pemBegin) {
		return nil, fmt.Errorf("PEM block %d is damaged", len(certs))
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

// Marshal writes the bundle in PEM.
func (b *Bundle) Marshal() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s\n%s %d\n", pemDomainLine, b.td.Name(), pemSequenceLine, b.sequence)
	for _, r := range b.roots {
		// A bytes.Buffer accepts every write.
		_ = pem.Encode(&out, &pem.Block{Type: pemCertificate, Bytes: r.Raw})
	}
	return out.Bytes()
}
