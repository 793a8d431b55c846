package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
)

var (
	td  = spiffeid.RequireTrustDomainFromString("cluster.local")
	web = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	db  = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// pair returns options with a new self-signed root.
func pair(t testing.TB, of spiffeid.TrustDomain, life time.Duration) ca.AuthorityOptions {
	t.Helper()
	cert, key, err := ca.SelfSigned(of, life)
	if err != nil {
		t.Fatal(err)
	}
	return ca.AuthorityOptions{TrustDomain: of, Cert: cert, Key: key}
}

func authority(t testing.TB, life time.Duration) *ca.Authority {
	t.Helper()
	a, err := ca.NewAuthority(pair(t, td, life))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func csr(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// TestSignIgnoresTheRequest asks for everything that must not be had.
func TestSignIgnoresTheRequest(t *testing.T) {
	a, key := authority(t, time.Hour*24*365), p256()
	greedy := csr(t, key, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "root"},
		URIs:        []*url.URL{db.URL()},
		DNSNames:    []string{"kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(10, 96, 0, 1)},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // CA:TRUE
			{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},          // keyCertSign, cRLSign
		},
	})
	chain, err := a.Sign(greedy, web, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 1 {
		t.Fatalf("chain of %d, want the leaf alone", len(chain))
	}
	leaf := must(x509.ParseCertificate(chain[0]))
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() {
		t.Errorf("URIs %v", leaf.URIs)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "" {
		t.Errorf("names %v %v, subject %q", leaf.DNSNames, leaf.IPAddresses, leaf.Subject)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("CA %v, key usage %b, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if bits := leaf.SerialNumber.BitLen(); bits < 64 || bits > 128 {
		t.Errorf("serial of %d bits", bits)
	}
	// X509-SVID section 2: critical, because the subject is empty.
	for _, e := range leaf.Extensions {
		if e.Id.String() == "2.5.29.17" && !e.Critical {
			t.Error("the subject alternative name is not critical")
		}
	}
	if _, err := identity.NewMaterial(chain, key, a.Bundle(), time.Now()); err != nil {
		t.Errorf("peers would refuse it: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	a := authority(t, time.Hour)
	good := csr(t, p256(), &x509.CertificateRequest{})
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-1] ^= 1
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for _, tc := range []struct {
		name string
		csr  []byte
		id   spiffeid.ID
		ok   bool
	}{
		{"P-256", good, web, true},
		{"Ed25519", csr(t, ed, &x509.CertificateRequest{}), web, true},
		{"P-384", csr(t, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), &x509.CertificateRequest{}), web, false},
		{"RSA", csr(t, must(rsa.GenerateKey(rand.Reader, 2048)), &x509.CertificateRequest{}), web, false},
		{"signature of another key", tampered, web, false},
		{"garbage", []byte("hello"), web, false},
		{"nothing", nil, web, false},
		{"another trust domain", good, spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web"), false},
		{"the trust domain itself", good, td.ID(), false},
		{"no identity", good, spiffeid.ID{}, false},
	} {
		if _, err := a.Sign(tc.csr, tc.id, 0); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestLeafLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := pair(t, td, 48*time.Hour)
		o.MaxTTL = 12 * time.Hour
		a := must(ca.NewAuthority(o))
		req := csr(t, p256(), &x509.CertificateRequest{})
		check := func(name string, ttl, want time.Duration) {
			t.Helper()
			leaf := must(x509.ParseCertificate(must(a.Sign(req, web, ttl))[0]))
			if got := time.Until(leaf.NotAfter); got != want {
				t.Errorf("%s: life %s, want %s", name, got, want)
			}
			if got := time.Since(leaf.NotBefore); got != 2*time.Minute {
				t.Errorf("%s: backdated %s", name, got)
			}
		}
		check("default", 0, ca.DefaultTTL)
		check("wish", time.Hour, time.Hour)
		check("too long", 1000*time.Hour, 12*time.Hour)
		check("too short", time.Nanosecond, 10*time.Second)
		<-time.After(40 * time.Hour)
		check("what the authority has left", 0, ca.DefaultTTL)
		<-time.After(7 * time.Hour)
		check("what the authority has left", 0, time.Hour)
		<-time.After(time.Hour - time.Second)
		if _, err := a.Sign(req, web, 0); !errors.Is(err, ca.ErrExhausted) {
			t.Errorf("a second before its end: %v", err)
		}
	})
}

// underRoot makes a signing certificate with a key below parent; edit may spoil it.
func underRoot(t *testing.T, parent ca.AuthorityOptions, edit func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	rootBlock, _ := pem.Decode(parent.Cert)
	root := must(x509.ParseCertificate(rootBlock.Bytes))
	keyBlock, _ := pem.Decode(parent.Key)
	rootKey := must(x509.ParsePKCS8PrivateKey(keyBlock.Bytes))
	own := p256()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "intermediate"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter.Add(-time.Minute),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	edit(template)
	der, err := x509.CreateCertificate(rand.Reader, template, root, own.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(own))})
}

// openRoot makes a self-signed root that may have intermediates below.
func openRoot(t *testing.T) ca.AuthorityOptions {
	t.Helper()
	key := p256()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "company root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return ca.AuthorityOptions{
		TrustDomain: td,
		Cert:        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}),
	}
}

func TestIntermediate(t *testing.T) {
	root := openRoot(t)
	cert, key := underRoot(t, root, func(*x509.Certificate) {})
	withRoot := ca.AuthorityOptions{TrustDomain: td, Cert: append(cert, root.Cert...), Key: key}
	bundle := must(identity.NewBundle(td, 4, must(identity.ParseCertificates(root.Cert))))
	for name, o := range map[string]ca.AuthorityOptions{
		"root in the chain":  withRoot,
		"root in the bundle": {TrustDomain: td, Cert: cert, Key: key, Bundle: bundle},
	} {
		a, err := ca.NewAuthority(o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		own := p256()
		chain := must(a.Sign(csr(t, own, &x509.CertificateRequest{}), web, 0))
		if len(chain) != 2 {
			t.Errorf("%s: chain of %d, want leaf and intermediate", name, len(chain))
		}
		m, err := identity.NewMaterial(chain, own, a.Bundle(), time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !m.NotAfter().Equal(a.NotAfter()) {
			t.Errorf("%s: the leaf lives until %s, the authority until %s", name, m.NotAfter(), a.NotAfter())
		}
	}
}

// TestWrongAuthority has one row for each way in which a key pair can be wrong.
func TestWrongAuthority(t *testing.T) {
	good, other := pair(t, td, time.Hour), pair(t, td, time.Hour)
	foreign := pair(t, spiffeid.RequireTrustDomainFromString("other.example"), time.Hour)
	expired := pair(t, td, -time.Second)
	company := openRoot(t)
	leaf, leafKey := underRoot(t, company, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	inter, interKey := underRoot(t, company, func(*x509.Certificate) {})
	noSign, noSignKey := underRoot(t, company, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	otherBundle := must(ca.NewAuthority(other)).Bundle()
	for _, tc := range []struct {
		name string
		o    ca.AuthorityOptions
		want string
	}{
		{"good", good, ""},
		{"no trust domain", ca.AuthorityOptions{Cert: good.Cert, Key: good.Key}, "no trust domain"},
		{"no certificate", ca.AuthorityOptions{TrustDomain: td, Key: good.Key}, "signing certificate: no certificate"},
		{"no key", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert}, "signing key: no PEM block"},
		{"swapped", ca.AuthorityOptions{TrustDomain: td, Cert: good.Key, Key: good.Cert}, "signing certificate: PEM block 0 is not a certificate"},
		{"certificate for a key", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: good.Cert}, `signing key: PEM block of type "CERTIFICATE"`},
		{"damaged key", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")}, "unreadable PKCS #8"},
		{"another's key", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: other.Key}, "is not the key of the signing certificate"},
		{"another trust domain", ca.AuthorityOptions{TrustDomain: td, Cert: foreign.Cert, Key: foreign.Key}, "belongs to trust domain other.example"},
		{"expired", expired, "has expired"},
		{"a leaf", ca.AuthorityOptions{TrustDomain: td, Cert: leaf, Key: leafKey}, "not a CA certificate"},
		{"may not sign", ca.AuthorityOptions{TrustDomain: td, Cert: noSign, Key: noSignKey}, "does not allow signing"},
		{"no root anywhere", ca.AuthorityOptions{TrustDomain: td, Cert: inter, Key: interKey}, "ends without a root"},
		{"bundle without its root", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: good.Key, Bundle: otherBundle}, "does not lead to a root"},
		{"bundle of another trust domain", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: good.Key, Bundle: must(ca.NewAuthority(foreign)).Bundle()}, "belongs to trust domain"},
		{"no life for leaves", ca.AuthorityOptions{TrustDomain: td, Cert: good.Cert, Key: good.Key, MaxTTL: time.Second}, "maximum TTL"},
	} {
		_, err := ca.NewAuthority(tc.o)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: the error shows the key: %v", tc.name, err)
		}
	}
}

func TestReload(t *testing.T) {
	first, second := pair(t, td, time.Hour), pair(t, td, time.Hour)
	roots := append(must(identity.ParseCertificates(first.Cert)), must(identity.ParseCertificates(second.Cert))...)
	first.Bundle = must(identity.NewBundle(td, 1, roots[:1]))
	a := must(ca.NewAuthority(first))
	self := must(a.Self(web))
	before := must(self.Current())

	second.Bundle = must(identity.NewBundle(td, 2, roots))
	if err := a.Reload(second); err != nil {
		t.Fatal(err)
	}
	after := must(self.Current())
	if !after.Bundle().Equal(second.Bundle) || after.Serial() == before.Serial() {
		t.Errorf("its own certificate did not follow: %s, was %s", after, before)
	}
	if err := after.VerifyWith(must(identity.NewBundle(td, 3, roots[1:])), time.Now()); err != nil {
		t.Errorf("not signed by the new root: %v", err)
	}
	if err := a.Reload(first); !errors.Is(err, identity.ErrStaleBundle) {
		t.Errorf("back to an older bundle: %v", err)
	}
	if err := a.Reload(ca.AuthorityOptions{TrustDomain: td}); err == nil {
		t.Error("reloaded with nothing")
	}
	if err := a.Reload(pair(t, spiffeid.RequireTrustDomainFromString("other.example"), time.Hour)); err == nil {
		t.Error("reloaded with another trust domain")
	}
	if !a.Bundle().Equal(second.Bundle) {
		t.Error("a failed reload changed the authority")
	}
}

func TestSelfRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t, 10*time.Hour)
		self := must(a.Self(web))
		first := must(self.Current())
		<-time.After(2 * time.Hour)
		if again := must(self.Current()); again != first {
			t.Error("renewed before half its life")
		}
		<-time.After(time.Hour)
		second := must(self.Current())
		if second.Serial() == first.Serial() || !second.NotAfter().After(first.NotAfter()) {
			t.Errorf("after half its life still %s", second)
		}
		<-time.After(4 * time.Hour) // renewed for the 3 h that the authority has left
		must(self.Current())
		<-time.After(3*time.Hour - 5*time.Second)
		if m, err := self.Current(); err != nil || time.Now().After(m.NotAfter()) {
			t.Errorf("the certificate held is not kept to its end: %v", err)
		}
		<-time.After(6 * time.Second)
		if _, err := self.Current(); !errors.Is(err, ca.ErrExhausted) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestSelfSignedRefuses(t *testing.T) {
	if _, _, err := ca.SelfSigned(spiffeid.TrustDomain{}, time.Hour); err == nil {
		t.Error("a root without a trust domain")
	}
	a := authority(t, time.Hour)
	if _, err := a.Self(spiffeid.RequireFromString("spiffe://other.example/ns/a/sa/b")); err == nil {
		t.Error("a certificate of its own in another trust domain")
	}
}
