package handoff

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

const (
	// minBatch and maxBatch bound what is asked for at once. A pod that dials
	// often gets larger batches; one that seldom does ties up few descriptors.
	minBatch = 4
	maxBatch = maxSockets
	// fastRefill is the time within which a used-up batch makes the next one
	// twice as large.
	fastRefill = 500 * time.Millisecond
)

// podStock keeps unconnected sockets of one pod, made before they are needed.
// It is empty for a family until the pod first dials in it.
type podStock struct {
	pod   mesh.WorkloadID
	netns uint64

	mu      sync.Mutex
	session *session // who to ask; nil while the agent is away
	closed  bool
	shelves map[Family]*shelf
}

// shelf is the stock of one family.
type shelf struct {
	files   []*os.File
	batch   int // size of the next one
	asked   time.Time
	pending bool          // a batch is on its way
	changed chan struct{} // closed and replaced whenever waiters should look again
	err     error         // of the last batch, nil if it came
}

func newPodStock(pod mesh.WorkloadID, netns uint64) *podStock {
	return &podStock{pod: pod, netns: netns, shelves: map[Family]*shelf{}}
}

// attach tells the stock whom to ask from now on.
func (p *podStock) attach(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = s
	for _, sh := range p.shelves {
		sh.pending = false
		sh.wake()
	}
}

func (p *podStock) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, sh := range p.shelves {
		for _, f := range sh.files {
			_ = f.Close()
		}
		sh.files = nil
		sh.wake()
	}
}

// take returns a socket; the caller closes it. It asks for more before the
// stock is empty, and waits only when it is.
func (p *podStock) take(ctx context.Context, family Family) (*os.File, error) {
	for waited := false; ; waited = true {
		f, order, changed, err := p.tryTake(family, waited)
		if order != nil {
			order()
		}
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// tryTake returns a socket, or an error, or a channel to wait on; and a
// function to call, without the lock, if it is time to ask for more. waited
// says that the caller has waited for a batch, whose failure then is its own.
func (p *podStock) tryTake(family Family, waited bool) (f *os.File, order func(), changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, nil, ErrUnknownPod
	}
	sh := p.shelves[family]
	if sh == nil {
		sh = &shelf{batch: minBatch, changed: make(chan struct{})}
		p.shelves[family] = sh
	}
	n := len(sh.files)
	if n == 0 && waited && sh.err != nil && !sh.pending {
		return nil, nil, nil, sh.err
	}
	if n > 0 {
		n--
		f = sh.files[n]
		sh.files = sh.files[:n]
	}
	if n <= sh.batch/4 && !sh.pending && p.session != nil {
		order = p.order(family, sh)
	}
	return f, order, sh.changed, nil
}

// order decides on the next batch; the session calls arrive with the answer.
func (p *podStock) order(family Family, sh *shelf) func() {
	now := time.Now()
	if !sh.asked.IsZero() {
		if now.Sub(sh.asked) < fastRefill {
			sh.batch = min(2*sh.batch, maxBatch)
		} else {
			sh.batch = max(sh.batch/2, minBatch)
		}
	}
	sh.asked, sh.pending, sh.err = now, true, nil
	from, count := p.session, sh.batch
	return func() { from.order(p, family, count) }
}

// arrive takes the answer to an order of the session: descriptors, or an error.
func (p *podStock) arrive(from *session, family Family, fds []int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sh := p.shelves[family]
	if p.session == from {
		sh.pending = false
	}
	if p.closed {
		closeAll(fds)
		return
	}
	sh.err = err
	for _, fd := range fds {
		_ = unix.SetNonblock(fd, true) // or os.NewFile would not use the poller
		sh.files = append(sh.files, os.NewFile(uintptr(fd), "pod socket"))
	}
	if err == nil && len(fds) == 0 {
		sh.err = errors.New("agent sent no socket")
	}
	sh.wake()
}

func (sh *shelf) wake() {
	close(sh.changed)
	sh.changed = make(chan struct{})
}
