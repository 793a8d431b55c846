package ca

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
)

// nodeLimits is one token bucket for each node.
type nodeLimits struct {
	limit rate.Limit
	burst int

	mu     sync.Mutex
	nodes  map[string]*rate.Limiter
	pruned time.Time
}

// allow takes a token from the node's bucket, if there is one.
func (n *nodeLimits) allow(node string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.prune(now)
	l, ok := n.nodes[node]
	if !ok {
		l = rate.NewLimiter(n.limit, n.burst)
		n.nodes[node] = l
	}
	return l.AllowN(now, 1)
}

// prune forgets nodes whose buckets are full: a new one is just as full.
func (n *nodeLimits) prune(now time.Time) {
	if now.Sub(n.pruned) < time.Hour {
		return
	}
	n.pruned = now
	for node, l := range n.nodes {
		if l.TokensAt(now) >= float64(n.burst) {
			delete(n.nodes, node)
		}
	}
}

// keyLedger remembers which identity each live key was certified for. A key
// that turns up for a second identity has been stolen or replayed.
type keyLedger struct {
	mu     sync.Mutex
	keys   map[[sha256.Size]byte]ledgerEntry
	pruned time.Time
}

type ledgerEntry struct {
	id    spiffeid.ID
	until time.Time
}

var errForeignKey = errors.New("the key was certified for another identity before")

// claim records that pub belongs to id until the given time.
func (l *keyLedger) claim(pub crypto.PublicKey, id spiffeid.ID, now, until time.Time) error {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("encoding a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(now)
	if e, ok := l.keys[sum]; ok && e.id != id && now.Before(e.until) {
		return errForeignKey
	}
	l.keys[sum] = ledgerEntry{id: id, until: until}
	return nil
}

func (l *keyLedger) prune(now time.Time) {
	if now.Sub(l.pruned) < 10*time.Minute {
		return
	}
	l.pruned = now
	for k, e := range l.keys {
		if now.After(e.until) {
			delete(l.keys, k)
		}
	}
}
