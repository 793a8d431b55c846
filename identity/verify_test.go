package identity

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// forger signs whatever a test asks for.
type forger struct {
	t    *testing.T
	cert *x509.Certificate
	key  *Key
}

func newForger(t *testing.T) forger {
	t.Helper()
	f := forger{t: t, key: must(NewKey())}
	template := signing("root")
	f.cert = f.sign(template, template, f.key, f.key)
	return f
}

func signing(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
}

func (f forger) sign(c, parent *x509.Certificate, of, by *Key) *x509.Certificate {
	f.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, of.Public(), by)
	if err != nil {
		f.t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

// leaf returns a correct leaf changed by edit.
func (f forger) leaf(edit func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		URIs:         uris("spiffe://cluster.local/ns/shop/sa/web"),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	edit(c)
	return f.sign(c, f.cert, must(NewKey()), f.key)
}

func uris(all ...string) (out []*url.URL) {
	for _, s := range all {
		out = append(out, must(url.Parse(s)))
	}
	return out
}

// TestVerifyLeafRules has one row for each rule that a leaf can break.
func TestVerifyLeafRules(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString("cluster.local")
	f := newForger(t)
	b := must(NewBundle(domain, 1, []*x509.Certificate{f.cert}))
	for _, tc := range []struct {
		name string
		edit func(*x509.Certificate)
		want error
		text string
	}{
		{name: "correct", edit: func(*x509.Certificate) {}},
		{name: "a DNS name besides", edit: func(c *x509.Certificate) { c.DNSNames = []string{"web.shop"} }},
		{name: "no extended key usage", edit: func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{name: "no URI", edit: func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"web"} }, want: ErrNotSVID, text: "0 URI"},
		{name: "two URIs", edit: func(c *x509.Certificate) {
			c.URIs = uris("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/db")
		}, want: ErrNotSVID, text: "2 URI"},
		{name: "a second URI of another kind", edit: func(c *x509.Certificate) {
			c.URIs = uris("spiffe://cluster.local/ns/shop/sa/web", "https://cluster.local/")
		}, want: ErrNotSVID, text: "2 URI"},
		{name: "no SPIFFE ID", edit: func(c *x509.Certificate) { c.URIs = uris("https://cluster.local/ns/shop/sa/web") }, want: ErrNotSVID, text: "URI name"},
		{name: "no path", edit: func(c *x509.Certificate) { c.URIs = uris("spiffe://cluster.local") }, want: ErrNotSVID, text: "not a workload"},
		{name: "a query", edit: func(c *x509.Certificate) { c.URIs = uris("spiffe://cluster.local/ns/shop/sa/web?x=y") }, want: ErrNotSVID, text: "URI name"},
		{name: "CA", edit: func(c *x509.Certificate) { c.IsCA = true }, want: ErrNotSVID, text: "CA certificate"},
		{name: "may sign certificates", edit: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, want: ErrNotSVID, text: "signing"},
		{name: "may sign CRLs", edit: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, want: ErrNotSVID, text: "signing"},
		{name: "no digital signature", edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, want: ErrNotSVID, text: "digitalSignature"},
		{name: "other trust domain, same root", edit: func(c *x509.Certificate) { c.URIs = uris("spiffe://other.example/ns/shop/sa/web") }, want: ErrUntrusted, text: "no trust bundle"},
		{name: "expired", edit: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, want: ErrUntrusted, text: "expired"},
		{name: "not yet valid", edit: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Second) }, want: ErrUntrusted, text: "not yet valid"},
		{name: "for the other direction", edit: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, want: ErrUntrusted, text: "key usage"},
		{name: "an unknown critical extension", edit: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, want: ErrUntrusted, text: "critical"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaf := f.leaf(tc.edit)
			id, err := verifyChain([]*x509.Certificate{leaf}, b, time.Now(), x509.ExtKeyUsageServerAuth)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if tc.want == nil {
				if id.String() != "spiffe://cluster.local/ns/shop/sa/web" {
					t.Errorf("identity %q", id)
				}
				return
			}
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %q does not say %q", err, tc.text)
			}
			if !id.IsZero() {
				t.Errorf("identity %s beside an error", id)
			}
		})
	}
}

func TestVerifyClientDirection(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString("cluster.local")
	f := newForger(t)
	b := must(NewBundle(domain, 1, []*x509.Certificate{f.cert}))
	leaf := f.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	_, err := verifyChain([]*x509.Certificate{leaf}, b, time.Now(), x509.ExtKeyUsageClientAuth)
	if !errors.Is(err, ErrUntrusted) {
		t.Errorf("a server's certificate passes for a client's: %v", err)
	}
}

func TestVerifyChains(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString("cluster.local")
	f, stranger := newForger(t), newForger(t)
	b := must(NewBundle(domain, 1, []*x509.Certificate{f.cert}))

	middleKey := must(NewKey())
	middle := f.sign(signing("middle"), f.cert, middleKey, f.key)
	below := forger{t: t, cert: middle, key: middleKey}
	unchanged := func(*x509.Certificate) {}

	for _, tc := range []struct {
		name  string
		certs []*x509.Certificate
		b     *Bundle
		want  error
	}{
		{"with its intermediate", []*x509.Certificate{below.leaf(unchanged), middle}, b, nil},
		{"intermediate missing", []*x509.Certificate{below.leaf(unchanged)}, b, ErrUntrusted},
		{"strange root", []*x509.Certificate{stranger.leaf(unchanged)}, b, ErrUntrusted},
		{"strange root brought along", []*x509.Certificate{stranger.leaf(unchanged), stranger.cert}, b, ErrUntrusted},
		{"signed by a leaf", []*x509.Certificate{signedByLeaf(f), f.leaf(unchanged)}, b, ErrUntrusted},
		{"empty bundle", []*x509.Certificate{f.leaf(unchanged)}, must(NewBundle(domain, 2, nil)), ErrUntrusted},
		{"no bundle", []*x509.Certificate{f.leaf(unchanged)}, nil, ErrUntrusted},
		{"no certificate", nil, b, ErrNotSVID},
	} {
		if _, err := verifyChain(tc.certs, tc.b, time.Now(), x509.ExtKeyUsageServerAuth); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
		}
	}
}

// signedByLeaf returns a leaf signed with the key of another leaf.
func signedByLeaf(f forger) *x509.Certificate {
	key := must(NewKey())
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		URIs:      uris("spiffe://cluster.local/ns/shop/sa/evil"),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	parent := f.sign(c, f.cert, key, f.key)
	return forger{t: f.t, cert: parent, key: key}.leaf(func(*x509.Certificate) {})
}

func TestNewMaterialRefuses(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString("cluster.local")
	ca := NewFakeCA(domain)
	id := must(ForServiceAccount(domain, "shop", "web"))
	m := must(ca.Source(id).Current())
	chain, now := m.cert.Certificate, time.Now()
	key := m.cert.PrivateKey.(*Key)
	if _, err := NewMaterial(chain, key, ca.Bundle(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMaterial(chain, must(NewKey()), ca.Bundle(), now); err == nil {
		t.Error("accepted with another key")
	}
	if _, err := NewMaterial(chain, key, NewFakeCA(domain).Bundle(), now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("with a bundle it does not lead to: %v", err)
	}
	if _, err := NewMaterial(chain, key, nil, now); err == nil {
		t.Error("accepted without a bundle")
	}
	if _, err := NewMaterial(nil, key, ca.Bundle(), now); !errors.Is(err, ErrNotSVID) {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := NewMaterial([][]byte{{0}}, key, ca.Bundle(), now); err == nil {
		t.Error("accepted garbage")
	}
}
