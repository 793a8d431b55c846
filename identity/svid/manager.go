package svid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
)

const (
	// parallel bounds the requests under way, for the controller's sake when a
	// node starts.
	parallel = 8
	// attemptTimeout bounds one request.
	attemptTimeout = 10 * time.Second
)

// ErrStopped is returned by Hold after Run has ended.
var ErrStopped = errors.New("the certificate manager has stopped")

// ManagerOptions configure a Manager. Issuer is required; zero values of the
// others have the meanings given.
type ManagerOptions struct {
	Issuer Issuer
	// TTL is the life of certificates to ask for; 0 leaves it to the authority.
	TTL time.Duration
	// Log, nil for slog.Default.
	Log *slog.Logger
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
}

// Manager holds one certificate for each identity that pods were held for; the
// pods of one service account share it. Certificates are renewed at half their
// life; one that cannot be renewed is kept until it expires. A change of the
// trust bundle that arrives with any certificate reaches all Sources.
type Manager struct {
	issuer  Issuer
	ttl     time.Duration
	log     *slog.Logger
	metrics metrics
	slots   chan struct{} // one taken for each request under way
	trust   identity.Trust

	mu      sync.Mutex
	entries map[spiffeid.ID]*entry
	pods    map[string]*entry
	started []*entry      // added since Run last looked
	wake    chan struct{} // has an element when started has
	stopped chan struct{} // closed when Run ends
}

// entry is one identity. The fields of the second group are under Manager.mu,
// under which store is written, too.
type entry struct {
	id    spiffeid.ID
	store identity.Store
	first chan struct{} // closed with the first certificate
	nudge chan struct{} // has an element when waiting longer is wrong
	gone  chan struct{} // closed when the last pod is released

	pods     []string // sorted, empty once gone
	attempts int
	lastErr  error // of the last attempt
}

// NewManager makes a Manager that does nothing until Run. It panics if its
// metrics are registered already.
func NewManager(o ManagerOptions) *Manager {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m := &Manager{
		issuer:  o.Issuer,
		ttl:     o.TTL,
		log:     o.Log,
		slots:   make(chan struct{}, parallel),
		entries: make(map[spiffeid.ID]*entry),
		pods:    make(map[string]*entry),
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	m.metrics = newMetrics(o.Registry, m)
	return m
}

// Run gets and renews certificates until ctx ends. What the Sources hold then
// stays there until it expires, for connections that are draining. Run must be
// called exactly once; it returns nil.
func (m *Manager) Run(ctx context.Context) error {
	var keepers sync.WaitGroup
	defer close(m.stopped)
	defer keepers.Wait()
	for {
		for _, e := range m.takeStarted() {
			keepers.Go(func() { m.keep(ctx, e) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		}
	}
}

func (m *Manager) takeStarted() []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	es := m.started
	m.started = nil
	return es
}

// Hold asks for the identity of a pod until Release, and returns its Source. It
// returns at once if the identity has had a certificate before, else with the
// first one, or with an error when ctx ends or Run has; the pod then stays held
// and must still be released. podUID empty means the pod of this process.
// Holding a pod again changes nothing; holding it with another identity fails.
func (m *Manager) Hold(ctx context.Context, podUID string, id spiffeid.ID) (identity.Source, error) {
	e, err := m.add(podUID, id)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.first:
		return &e.store, nil
	default:
	}
	select {
	case <-e.first:
		return &e.store, nil
	case <-e.gone:
		return nil, fmt.Errorf("certificate of %s: released while waiting for it", id)
	case <-m.stopped:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, m.waitError(ctx, e)
	}
}

// waitError tells why there was nothing to wait for, if that is known.
func (m *Manager) waitError(ctx context.Context, e *entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.lastErr != nil {
		return fmt.Errorf("certificate of %s: %w; last attempt: %w", e.id, ctx.Err(), e.lastErr)
	}
	return fmt.Errorf("certificate of %s: %w", e.id, ctx.Err())
}

func (m *Manager) add(podUID string, id spiffeid.ID) (*entry, error) {
	if id.Path() == "" {
		return nil, fmt.Errorf("pod %q: %q is not the identity of a workload", podUID, id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.pods[podUID]; ok {
		if e.id != id {
			return nil, fmt.Errorf("pod %q is held as %s, not %s", podUID, e.id, id)
		}
		return e, nil
	}
	e, ok := m.entries[id]
	if !ok {
		e = newEntry(id)
		m.entries[id] = e
		m.started = append(m.started, e)
		signal(m.wake)
	}
	e.pods = append(e.pods, podUID)
	sort.Strings(e.pods)
	m.pods[podUID] = e
	if e.store.Peek() == nil {
		signal(e.nudge) // another pod may be granted what the others were not
	}
	return e, nil
}

func newEntry(id spiffeid.ID) *entry {
	return &entry{id: id, first: make(chan struct{}), nudge: make(chan struct{}, 1), gone: make(chan struct{})}
}

// signal puts an element into a channel of capacity 1 unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain takes it out again.
func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// Release gives a pod up. With the last pod of an identity its certificate and
// key are dropped; Sources of it fail from then on. Unknown pods are ignored.
func (m *Manager) Release(podUID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.pods[podUID]
	if !ok {
		return
	}
	delete(m.pods, podUID)
	i := sort.SearchStrings(e.pods, podUID)
	e.pods = append(e.pods[:i], e.pods[i+1:]...)
	if len(e.pods) == 0 {
		delete(m.entries, e.id)
		close(e.gone)
		e.store.Set(nil)
	}
}

// Bundle returns the newest roots seen, nil before the first certificate.
func (m *Manager) Bundle() *identity.Bundle { return m.trust.Bundle() }

// Self gets the certificate of the pod that this process runs in, as Hold does.
func Self(ctx context.Context, m *Manager, id spiffeid.ID) (identity.Source, error) {
	return m.Hold(ctx, "", id)
}
