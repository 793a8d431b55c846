package svid_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/svid"
)

// TestRootsRoll follows a root from its publication to the old one's end.
func TestRootsRoll(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		sweb := r.hold("p1", web)
		oldBundle, oldCert := r.m.Bundle(), current(t, sweb)
		r.ca.AddRoot() // published, and signing
		sdb := r.hold("p2", db)
		if m := current(t, sweb); m.Serial() != oldCert.Serial() || !m.Bundle().Equal(r.ca.Bundle()) {
			t.Errorf("%s with %s, want the old certificate with %s", m, m.Bundle(), r.ca.Bundle())
		}
		newRoot := r.ca.Bundle().Roots()[1]
		dbSerial := current(t, sdb).Serial()
		r.ca.SetRoots(newRoot) // the old root retires
		r.hold("p3", spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/third"))
		synctest.Wait()
		if m := current(t, sweb); m.Serial() == oldCert.Serial() || !m.Bundle().Equal(r.ca.Bundle()) {
			t.Errorf("%s with %s is of no use to peers, and stays", m, m.Bundle())
		}
		if current(t, sdb).Serial() != dbSerial {
			t.Error("renewed a certificate that is still good")
		}
		if oldBundle.Sequence() >= r.m.Bundle().Sequence() {
			t.Errorf("bundle %s after %s", r.m.Bundle(), oldBundle)
		}
	})
}

// lagging is a controller that has not heard of the newest bundle: the
// certificates are good, the roots beside them old.
type lagging struct {
	*svid.FakeIssuer
	bundle atomic.Pointer[identity.Bundle]
}

func (l *lagging) Issue(ctx context.Context, r svid.Request) (*identity.Material, error) {
	m, err := l.FakeIssuer.Issue(ctx, r)
	if b := l.bundle.Load(); err == nil && b != nil {
		m = m.WithBundle(b)
	}
	return m, err
}

func TestOlderBundleIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identity.NewFakeCA(td)
		old := ca.Bundle()
		ca.SetRoots(append(old.Roots(), identity.NewFakeCA(td).Bundle().Roots()...)...)
		issuer := &lagging{FakeIssuer: svid.NewFakeIssuer(ca)}
		m := svid.NewManager(svid.ManagerOptions{Issuer: issuer, TTL: ttl, Log: quiet()})
		defer run(t, m)()
		src, err := m.Hold(t.Context(), "p1", web)
		if err != nil {
			t.Fatal(err)
		}
		first := current(t, src)
		issuer.bundle.Store(old)
		advance(ttl * 6 / 10)
		if got := current(t, src); got.Serial() == first.Serial() || !got.Bundle().Equal(ca.Bundle()) {
			t.Errorf("%s with %s, want a new certificate with the newest bundle", got, got.Bundle())
		}
	})
}

// wrong answers with a certificate of somebody else.
type wrong struct{ *svid.FakeIssuer }

func (w wrong) Issue(ctx context.Context, r svid.Request) (*identity.Material, error) {
	r.ID = db
	return w.FakeIssuer.Issue(ctx, r)
}

func TestWrongIdentityIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := svid.NewManager(svid.ManagerOptions{Issuer: wrong{svid.NewFakeIssuer(identity.NewFakeCA(td))}, Log: quiet()})
		defer run(t, m)()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := m.Hold(ctx, "p1", web); !errors.Is(err, svid.ErrInvalidAnswer) {
			t.Errorf("error %v", err)
		}
	})
}
