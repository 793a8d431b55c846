package identity_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
)

func root(t testing.TB, of spiffeid.TrustDomain) *x509.Certificate {
	t.Helper()
	return identity.NewFakeCA(of).Bundle().Roots()[0]
}

func bundle(t testing.TB, sequence uint64, roots ...*x509.Certificate) *identity.Bundle {
	t.Helper()
	b, err := identity.NewBundle(td, sequence, roots)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBundleRoundTrip(t *testing.T) {
	r1, r2 := root(t, td), root(t, td)
	b := bundle(t, 7, r1, r2, r1)
	if n := len(b.Roots()); n != 2 {
		t.Fatalf("%d roots, want the repeated one dropped", n)
	}
	again, err := identity.ParseBundle(b.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !again.Equal(b) || again.Sequence() != 7 || again.TrustDomain() != td {
		t.Errorf("%s became %s", b, again)
	}
	viaDER, err := identity.BundleFromDER(td, 7, [][]byte{r2.Raw, r1.Raw})
	if err != nil {
		t.Fatal(err)
	}
	if !viaDER.Equal(b) {
		t.Error("the order of roots matters to Equal")
	}
	if bundle(t, 7, r1).Equal(b) || bundle(t, 8, r1, r2).Equal(b) || (*identity.Bundle)(nil).Equal(b) {
		t.Error("different bundles are equal")
	}
}

func TestNewBundleRefuses(t *testing.T) {
	other := spiffeid.RequireTrustDomainFromString("other.example")
	ca := identity.NewFakeCA(td)
	leaf, err := ca.Source(account("web")).Current()
	if err != nil {
		t.Fatal(err)
	}
	noCertSign := *root(t, td)
	noCertSign.KeyUsage = x509.KeyUsageCRLSign
	for name, c := range map[string]*x509.Certificate{
		"leaf":                   leaf.Leaf(),
		"other trust domain":     root(t, other),
		"no certificate signing": &noCertSign,
	} {
		if _, err := identity.NewBundle(td, 1, []*x509.Certificate{c}); err == nil {
			t.Errorf("%s: accepted as a root", name)
		}
	}
	if _, err := identity.NewBundle(spiffeid.TrustDomain{}, 1, nil); err == nil {
		t.Error("accepted without a trust domain")
	}
	if _, err := identity.BundleFromDER(td, 1, [][]byte{{1, 2, 3}}); err == nil {
		t.Error("garbage accepted as a certificate")
	}
}

func TestParseBundle(t *testing.T) {
	good := string(bundle(t, 3, root(t, td), root(t, td)).Marshal())
	_, certs, _ := strings.Cut(good, "# sequence: 3\n")
	for _, tc := range []struct {
		name, text, wantErr string
		sequence            uint64
	}{
		{name: "marshalled", text: good, sequence: 3},
		{name: "trust domain from the root", text: certs},
		{name: "other text around", text: "kept by hand\n" + good + "\nend\n", sequence: 3},
		{name: "carriage returns", text: strings.ReplaceAll(good, "\n", "\r\n"), sequence: 3},
		{name: "empty", text: "", wantErr: "no certificate"},
		{name: "no certificate", text: "# trust domain: cluster.local\n", wantErr: "no certificate"},
		{name: "cut short", text: good[:len(good)-40], wantErr: "damaged"},
		{name: "a key among them", text: certs + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", wantErr: "not a certificate"},
		{name: "no DER", text: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", wantErr: "certificate 0"},
		{name: "bad sequence", text: "# sequence: -1\n" + certs, wantErr: "sequence"},
		{name: "bad trust domain", text: "# trust domain: A B\n" + certs, wantErr: "trust domain"},
		{name: "another trust domain", text: "# trust domain: other.example\n" + certs, wantErr: "belongs to"},
	} {
		b, err := identity.ParseBundle([]byte(tc.text))
		if tc.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.wantErr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if b.Sequence() != tc.sequence || len(b.Roots()) != 2 || b.TrustDomain() != td {
			t.Errorf("%s: %s", tc.name, b)
		}
	}
}

func TestParseBundleOf(t *testing.T) {
	other := spiffeid.RequireTrustDomainFromString("other.example")
	text := bundle(t, 3, root(t, td)).Marshal()
	_, certs, _ := bytes.Cut(text, []byte("# sequence: 3\n"))
	silent := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: namelessRoot(t)})
	for _, tc := range []struct {
		name string
		td   spiffeid.TrustDomain
		text []byte
		ok   bool
	}{
		{"agrees", td, text, true},
		{"no line", td, certs, true},
		{"nothing names it", td, silent, true},
		{"the line disagrees", other, text, false},
		{"the root disagrees", other, certs, false},
		{"no trust domain", spiffeid.TrustDomain{}, text, false},
	} {
		if b, err := identity.ParseBundleOf(tc.td, tc.text); (err == nil) != tc.ok || tc.ok && b.TrustDomain() != td {
			t.Errorf("%s: %s, %v", tc.name, b, err)
		}
	}
	if _, err := identity.ParseBundle(silent); err == nil {
		t.Error("a bundle of no trust domain")
	}
}

// namelessRoot returns a root certificate without a URI, as companies have them.
func namelessRoot(t *testing.T) []byte {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "company root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func FuzzParseBundle(f *testing.F) {
	good := bundle(f, 3, root(f, td)).Marshal()
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add(good[:len(good)/2])
	f.Add([]byte("# sequence: 18446744073709551615\n# trust domain: a\n-----BEGIN"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := identity.ParseBundle(text)
		if err != nil {
			return
		}
		again, err := identity.ParseBundle(b.Marshal())
		if err != nil {
			t.Fatalf("own output refused: %v", err)
		}
		if !again.Equal(b) {
			t.Fatalf("%s became %s", b, again)
		}
	})
}

func TestTrustOffer(t *testing.T) {
	r1, r2 := root(t, td), root(t, td)
	foreign := identity.NewFakeCA(spiffeid.RequireTrustDomainFromString("other.example")).Bundle()
	var trust identity.Trust
	if trust.Bundle() != nil {
		t.Fatal("a new holder holds something")
	}
	for _, step := range []struct {
		name    string
		offer   *identity.Bundle
		changed bool
		err     bool
		held    uint64
	}{
		{"first", bundle(t, 5, r1), true, false, 5},
		{"the same", bundle(t, 5, r1), false, false, 5},
		{"same number, other roots", bundle(t, 5, r1, r2), true, false, 5},
		{"lower", bundle(t, 4, r1), false, true, 5},
		{"higher", bundle(t, 6, r2), true, false, 6},
		{"other trust domain", foreign, false, true, 6},
	} {
		changed, err := trust.Offer(step.offer)
		if changed != step.changed || (err != nil) != step.err {
			t.Errorf("%s: changed %v, error %v", step.name, changed, err)
		}
		if step.name == "lower" && !errors.Is(err, identity.ErrStaleBundle) {
			t.Errorf("%s: error %v is not ErrStaleBundle", step.name, err)
		}
		if got := trust.Bundle().Sequence(); got != step.held {
			t.Errorf("%s: holds %d, want %d", step.name, got, step.held)
		}
	}
}

func TestFileBundle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root-cert.pem")
	var reports []error
	current := identity.FileBundle(path, func(err error) { reports = append(reports, err) })
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(step string, sequence uint64, reported int) {
		t.Helper()
		b := current()
		if b == nil || b.Sequence() != sequence || len(reports) != reported {
			t.Fatalf("%s: %s, reports %v", step, b, reports)
		}
	}
	if b := current(); b != nil || len(reports) != 1 {
		t.Fatalf("no file: %s, reports %v", b, reports)
	}
	r := root(t, td)
	write(bundle(t, 2, r).Marshal())
	expect("first", 2, 1)
	write([]byte("half written"))
	expect("unreadable", 2, 2)
	write(bundle(t, 1, r).Marshal())
	expect("older", 2, 3)
	write(bundle(t, 3, r, root(t, td)).Marshal())
	expect("newer", 3, 3)
}
