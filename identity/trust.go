package identity

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// ErrStaleBundle is returned to whoever offers a bundle with a lower sequence
// than the one held: going back could bring a revoked root to life again.
var ErrStaleBundle = errors.New("trust bundle is older than the one held")

// Trust holds the newest bundle of one trust domain. The zero value holds none.
// It is safe for concurrent use and must not be copied.
type Trust struct {
	mu  sync.Mutex // serializes writers
	now atomic.Pointer[Bundle]
}

// Bundle returns the bundle held, nil if there is none yet.
func (t *Trust) Bundle() *Bundle { return t.now.Load() }

// Offer takes b if it is not older than the bundle held, and reports whether
// that changed anything. The error is ErrStaleBundle, or says that b belongs to
// another trust domain.
func (t *Trust) Offer(b *Bundle) (changed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	held := t.now.Load()
	switch {
	case held == nil:
	case b.td != held.td:
		return false, fmt.Errorf("trust bundle of %s offered to a holder of %s", b.td, held.td)
	case b.sequence < held.sequence:
		return false, fmt.Errorf("%w: sequence %d, held %d", ErrStaleBundle, b.sequence, held.sequence)
	case b.Equal(held):
		return false, nil
	}
	t.now.Store(b)
	return true, nil
}

// FileBundle returns a function that reads the bundle file at path anew on each
// call, for ControllerClientTLS: connections to the controller are rare and the
// kubelet replaces the file when roots change. While the file is unreadable or
// stale the function keeps to the last good bundle; it returns nil as long as
// there never was one. Failures are given to report, which may be nil.
func FileBundle(path string, report func(error)) func() *Bundle {
	trust := new(Trust)
	return func() *Bundle {
		if err := trust.readFile(path); err != nil && report != nil {
			report(err)
		}
		return trust.Bundle()
	}
}

func (t *Trust) readFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err // names the path
	}
	b, err := ParseBundle(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := t.Offer(b); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
