package identity

import (
	"crypto/x509"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity/internal/mint"
)

const (
	// fakeLife is the life of the certificates that a FakeCA's Sources hold.
	fakeLife = time.Hour
	// fakeRootLife is that of its roots.
	fakeRootLife = 1000 * time.Hour
)

// FakeCA is a certificate authority for tests: it issues real certificates to
// whoever asks, without a controller. All Sources it has handed out follow when
// its root is replaced or its bundle changed. Its methods panic on impossible
// failures, so that tests need no error handling.
type FakeCA struct {
	td spiffeid.TrustDomain

	mu     sync.Mutex
	issuer mint.Issuer
	bundle *Bundle
	stores map[spiffeid.ID]*Store
}

// NewFakeCA makes an authority for td with a root of its own.
func NewFakeCA(td spiffeid.TrustDomain) *FakeCA {
	ca := &FakeCA{td: td, stores: make(map[spiffeid.ID]*Store)}
	ca.newRoot()
	ca.bundle = must(NewBundle(td, 1, []*x509.Certificate{ca.issuer.Cert}))
	return ca
}

func (ca *FakeCA) newRoot() {
	key := must(NewKey())
	now := time.Now()
	der := must(mint.Root(ca.td, key, mint.Validity{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(fakeRootLife)}))
	ca.issuer = mint.Issuer{Cert: must(x509.ParseCertificate(der)), Key: key}
}

// Bundle returns the current roots.
func (ca *FakeCA) Bundle() *Bundle {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.bundle
}

// Source returns a certificate of id, the same Source for the same id. The
// *Store behind it can be emptied or replaced by the test.
func (ca *FakeCA) Source(id spiffeid.ID) *Store {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	s, ok := ca.stores[id]
	if !ok {
		s = new(Store)
		s.Set(ca.issue(id, fakeLife))
		ca.stores[id] = s
	}
	return s
}

// Issue returns a new certificate of id that lives for ttl.
func (ca *FakeCA) Issue(id spiffeid.ID, ttl time.Duration) *Material {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.issue(id, ttl)
}

func (ca *FakeCA) issue(id spiffeid.ID, ttl time.Duration) *Material {
	key := must(NewKey())
	now := time.Now()
	v := mint.Validity{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ttl)}
	der := must(mint.Leaf(ca.issuer, id, key.Public(), v))
	b := must(NewBundle(ca.td, 0, []*x509.Certificate{ca.issuer.Cert}))
	return must(NewMaterial([][]byte{der}, key, b, now)).WithBundle(ca.bundle)
}

// SetRoots replaces the bundle in every Source; no roots trusts nobody.
func (ca *FakeCA) SetRoots(roots ...*x509.Certificate) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.setRoots(roots)
}

func (ca *FakeCA) setRoots(roots []*x509.Certificate) {
	ca.bundle = must(NewBundle(ca.td, ca.bundle.sequence+1, roots))
	for _, s := range ca.stores {
		if m := s.Peek(); m != nil {
			s.Set(m.WithBundle(ca.bundle))
		}
	}
}

// AddRoot makes a new root, adds it to the bundle, and signs with it from now
// on. Certificates issued before stay as they are.
func (ca *FakeCA) AddRoot() {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.newRoot()
	ca.setRoots(append(ca.bundle.Roots(), ca.issuer.Cert))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
