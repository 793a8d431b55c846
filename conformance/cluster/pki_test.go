package cluster

import (
	"crypto/x509"
	"os"
	"testing"
)

func TestCertificatesVerify(t *testing.T) {
	l := layout{t.TempDir()}
	nodes := l.nodes(1)
	if err := l.makePKI(nodes); err != nil {
		t.Fatal(err)
	}
	for _, c := range certificates(nodes) {
		ca, _, err := l.loadAuthority(c.ca)
		if err != nil {
			t.Fatal(err)
		}
		cert, _, err := l.loadAuthority(c.name)
		if err != nil {
			t.Fatal(err)
		}
		options := x509.VerifyOptions{Roots: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		options.Roots.AddCert(ca)
		if len(c.hosts) > 0 {
			options.KeyUsages[0], options.DNSName = x509.ExtKeyUsageServerAuth, c.hosts[0]
		}
		if _, err := cert.Verify(options); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestPKIIsKept(t *testing.T) {
	l := layout{t.TempDir()}
	var before string
	for range 2 {
		if err := l.makePKI(l.nodes(1)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(l.pki("ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		if before != "" && before != string(text) {
			t.Error("the authority was made anew")
		}
		before = string(text)
	}
}
