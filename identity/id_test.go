package identity_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func TestForServiceAccount(t *testing.T) {
	for _, tc := range []struct {
		td            spiffeid.TrustDomain
		ns, sa, want  string
		wantNS, wantS string
	}{
		{td: td, ns: "shop", sa: "web", want: "spiffe://cluster.local/ns/shop/sa/web"},
		{td: td, ns: "shop", sa: "web.v2-x", want: "spiffe://cluster.local/ns/shop/sa/web.v2-x"},
		{td: td, ns: "", sa: "web"},
		{td: td, ns: "shop", sa: ""},
		{td: td, ns: "shop", sa: ".."},
		{td: td, ns: ".", sa: "web"},
		{td: td, ns: "shop", sa: "a/b"},
		{td: td, ns: "sh%op", sa: "web"},
		{ns: "shop", sa: "web"},
	} {
		id, err := identity.ForServiceAccount(tc.td, tc.ns, tc.sa)
		if (err == nil) != (tc.want != "") {
			t.Errorf("%q/%q: error %v, want identity %q", tc.ns, tc.sa, err, tc.want)
			continue
		}
		if id.String() != tc.want {
			t.Errorf("%q/%q: %q, want %q", tc.ns, tc.sa, id, tc.want)
		}
		ns, sa, ok := identity.ServiceAccountOf(id)
		if ok != (err == nil) || ok && (ns != tc.ns || sa != tc.sa) {
			t.Errorf("%s taken apart: %q, %q, %v", id, ns, sa, ok)
		}
	}
}

func TestServiceAccountOfOthers(t *testing.T) {
	for _, s := range []string{
		"spiffe://cluster.local",
		"spiffe://cluster.local/ns/shop",
		"spiffe://cluster.local/ns/shop/sa",
		"spiffe://cluster.local/ns/shop/sa/web/more",
		"spiffe://cluster.local/ns/a/b/sa/web",
		"spiffe://cluster.local/x/ns/shop/sa/web",
		"spiffe://cluster.local/ns/sa/sa",
	} {
		if ns, sa, ok := identity.ServiceAccountOf(spiffeid.RequireFromString(s)); ok {
			t.Errorf("%s: passes for service account %q/%q", s, ns, sa)
		}
	}
}

func FuzzServiceAccountOf(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/web")
	f.Add("spiffe://td/ns/sa/sa/sa")
	f.Add("SPIFFE://TD/ns/a/sa/b")
	f.Add("spiffe://td")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return
		}
		ns, sa, ok := identity.ServiceAccountOf(id)
		if !ok {
			return
		}
		again, err := identity.ForServiceAccount(id.TrustDomain(), ns, sa)
		if err != nil || again != id {
			t.Fatalf("%s taken apart to %q, %q and put together to %s (%v)", id, ns, sa, again, err)
		}
	})
}

func TestMatchers(t *testing.T) {
	web, db := account("web"), account("db")
	other := spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
	for _, tc := range []struct {
		name string
		m    identity.Matcher
		id   spiffeid.ID
		want bool
	}{
		{"one of, in", identity.OneOf(db, web), web, true},
		{"one of, out", identity.OneOf(db), web, false},
		{"one of nobody", identity.OneOf(), web, false},
		{"the zero identity never matches", identity.OneOf(spiffeid.ID{}), spiffeid.ID{}, false},
		{"member", identity.MemberOf(td), web, true},
		{"member of another", identity.MemberOf(td), other, false},
		{"member of none", identity.MemberOf(spiffeid.TrustDomain{}), spiffeid.ID{}, false},
	} {
		if err := tc.m(tc.id); (err == nil) != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// account returns the identity of a service account in namespace shop.
func account(name string) spiffeid.ID {
	id, err := identity.ForServiceAccount(td, "shop", name)
	if err != nil {
		panic(err)
	}
	return id
}
