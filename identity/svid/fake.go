package svid

import (
	"context"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/identity"
)

// fakeTTL is the life of certificates for which nobody asked for another.
const fakeTTL = time.Hour

// FakeIssuer is an Issuer for tests: an identity.FakeCA that grants every
// request until it is told to fail. It is safe for concurrent use.
type FakeIssuer struct {
	ca *identity.FakeCA

	mu       sync.Mutex
	err      error
	requests []Request
}

// NewFakeIssuer makes an Issuer of ca.
func NewFakeIssuer(ca *identity.FakeCA) *FakeIssuer { return &FakeIssuer{ca: ca} }

// SetError makes all requests fail with err; nil ends that.
func (f *FakeIssuer) SetError(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// Requests returns all requests so far, refused ones too.
func (f *FakeIssuer) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Request(nil), f.requests...)
}

// Issue implements Issuer.
func (f *FakeIssuer) Issue(_ context.Context, r Request) (*identity.Material, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	if f.err != nil {
		return nil, f.err
	}
	if r.TTL <= 0 {
		r.TTL = fakeTTL
	}
	return f.ca.Issue(r.ID, r.TTL), nil
}
