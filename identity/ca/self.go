package ca

import (
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
)

// Self is the identity.Source of the process that holds the Authority: it signs
// its own certificate when one is needed and renews it at half its life, in the
// handshake that finds it due. No goroutine is involved.
type Self struct {
	authority *Authority
	id        spiffeid.ID
	store     identity.Store
	mu        sync.Mutex // held while renewing
}

// Self returns the Source of id, which must be of the authority's own trust
// domain. It issues the first certificate at once.
func (a *Authority) Self(id spiffeid.ID) (*Self, error) {
	s := &Self{authority: a, id: id}
	if _, err := s.renew(); err != nil {
		return nil, err
	}
	return s, nil
}

// Current implements identity.Source. While renewal fails the certificate held
// is kept until it expires.
func (s *Self) Current() (*identity.Material, error) {
	m := s.store.Peek()
	if m.Bundle() == s.authority.Bundle() && time.Now().Before(halfLife(m)) {
		return m, nil
	}
	m, err := s.renew()
	if err == nil {
		return m, nil
	}
	if held, heldErr := s.store.Current(); heldErr == nil {
		return held, nil
	}
	return nil, err
}

func halfLife(m *identity.Material) time.Time {
	leaf := m.Leaf()
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 2)
}

func (s *Self) renew() (*identity.Material, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, signer := time.Now(), s.authority.now.Load()
	// Another handshake may have been here while this one waited.
	if m := s.store.Peek(); m != nil && m.Bundle() == signer.bundle && now.Before(halfLife(m)) {
		return m, nil
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	chain, err := signer.sign(key.Public(), s.id, 0, now)
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	m, err := identity.NewMaterial(chain, key, signer.bundle, now)
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	s.store.Set(m)
	return m, nil
}
