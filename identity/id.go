package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ForServiceAccount returns the identity of a Kubernetes service account,
// spiffe://<td>/ns/<namespace>/sa/<name>. It fails for names that cannot stand
// in a SPIFFE ID (SPIFFE-ID section 2.2), the empty one included, and for the
// zero trust domain.
func ForServiceAccount(td spiffeid.TrustDomain, namespace, name string) (spiffeid.ID, error) {
	if td.IsZero() {
		return spiffeid.ID{}, fmt.Errorf("identity of service account %s/%s: no trust domain", namespace, name)
	}
	id, err := spiffeid.FromSegments(td, "ns", namespace, "sa", name)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("identity of service account %q/%q: %w", namespace, name, err)
	}
	return id, nil
}

// ServiceAccountOf takes such an identity apart. It reports false for the zero
// ID and for IDs of any other form.
func ServiceAccountOf(id spiffeid.ID) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(id.Path(), "/ns/")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, "/sa/")
	if !ok || namespace == "" || name == "" || strings.Contains(namespace, "/") || strings.Contains(name, "/") {
		return "", "", false
	}
	return namespace, name, true
}

// A Matcher decides whether a peer that has proved to be id is the one to talk
// to: nil for yes, an error that says why not otherwise. It runs on every
// handshake and must not block. A nil Matcher refuses everybody.
type Matcher func(id spiffeid.ID) error

// OneOf accepts exactly the IDs given; none given accepts nobody.
func OneOf(ids ...spiffeid.ID) Matcher {
	expected := append([]spiffeid.ID(nil), ids...)
	return func(id spiffeid.ID) error {
		for _, e := range expected {
			if e == id && !id.IsZero() {
				return nil
			}
		}
		return fmt.Errorf("%s is not one of the %d expected peers", id, len(expected))
	}
}

// MemberOf accepts every identity of a trust domain.
func MemberOf(td spiffeid.TrustDomain) Matcher {
	return func(id spiffeid.ID) error {
		if td.IsZero() || !id.MemberOf(td) {
			return fmt.Errorf("%s is not a member of trust domain %q", id, td.Name())
		}
		return nil
	}
}
