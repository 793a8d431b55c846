package handoff

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

const (
	// snapshotPatience is how long Synced waits for the pods of the snapshot:
	// one that never becomes ready must not keep ztunnel from being so.
	snapshotPatience = 10 * time.Second
	// removePatience bounds one RemovePod.
	removePatience = 5 * time.Second
)

// session is one connection of a Client, from hello to end.
type session struct {
	client *Client
	link   *link
	h      Handler
	known  map[mesh.WorkloadID]bool // owned by run
	seen   map[mesh.WorkloadID]bool // added in this session; owned by run
	work   map[mesh.WorkloadID]*task
	wg     sync.WaitGroup

	mu     sync.Mutex
	seq    uint64
	orders map[uint64]socketOrder
	closed bool
}

// task is the last call to the handler that was begun for a pod.
type task struct {
	cancel context.CancelFunc
	done   chan struct{}
}

type socketOrder struct {
	stock  *podStock
	family Family
}

func newSession(c *Client, l *link, h Handler, known map[mesh.WorkloadID]bool) *session {
	return &session{
		client: c, link: l, h: h, known: known,
		seen:   map[mesh.WorkloadID]bool{},
		work:   map[mesh.WorkloadID]*task{},
		orders: map[uint64]socketOrder{},
	}
}

// run reads until the connection or ctx ends, then waits for all handlers.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer s.failOrders()
	defer cancel()
	defer s.link.close()
	stop := context.AfterFunc(ctx, s.link.close)
	defer stop()
	for {
		m, fds, err := s.link.receive()
		if err != nil {
			return err
		}
		if err := s.handle(ctx, m, fds); err != nil {
			return err
		}
	}
}

// handle takes over the descriptors. It does not block on the handler.
func (s *session) handle(ctx context.Context, m message, fds []int) error {
	switch m.Kind {
	case kindAdd:
		return s.add(ctx, m, fds)
	case kindSockets:
		s.arrived(m, fds)
	case kindRemove:
		delete(s.known, m.ID)
		s.begin(ctx, m.ID, func(ctx context.Context) { s.remove(ctx, m.ID, m.Seq) })
	case kindSnapshot:
		s.snapshotDone(ctx)
	case kindDrain:
		s.wg.Go(s.h.Drain)
	default:
		return fmt.Errorf("unexpected message %q", m.Kind)
	}
	return nil
}

// begin runs f after what was begun before for the pod, which it cancels.
func (s *session) begin(ctx context.Context, id mesh.WorkloadID, f func(ctx context.Context)) {
	prior := s.work[id]
	if prior != nil {
		prior.cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &task{cancel: cancel, done: make(chan struct{})}
	s.work[id] = t
	s.wg.Go(func() {
		defer close(t.done)
		defer cancel()
		if prior != nil {
			<-prior.done
		}
		f(ctx)
	})
}

func (s *session) add(ctx context.Context, m message, fds []int) error {
	pod, err := podOf(m.Pod, fds)
	if err != nil {
		return fmt.Errorf("add pod %s: %w", m.Pod.ID, err)
	}
	s.known[pod.ID], s.seen[pod.ID] = true, true
	s.client.know(pod.ID, m.Pod.NetNS)
	s.begin(ctx, pod.ID, func(ctx context.Context) {
		err := s.h.AddPod(ctx, pod)
		if err != nil {
			_ = pod.Close()
		}
		s.ack(m.Seq, err)
	})
	return nil
}

// remove takes the pod from the handler, also when the connection has just been
// lost: what was removed must not stay.
func (s *session) remove(ctx context.Context, id mesh.WorkloadID, seq uint64) {
	s.drop(ctx, id)
	s.ack(seq, nil)
}

func (s *session) drop(ctx context.Context, id mesh.WorkloadID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removePatience)
	defer cancel()
	s.h.RemovePod(ctx, id)
	s.client.forget(id)
}

// ack answers; a failure to do so ends the connection by itself.
func (s *session) ack(seq uint64, err error) {
	m := message{Kind: kindAck, Seq: seq}
	if err != nil {
		m.Error = err.Error()
	}
	_ = s.link.send(m)
}

// snapshotDone drops the pods that the agent did not name, and waits for the
// others before it says so.
func (s *session) snapshotDone(ctx context.Context) {
	for id := range maps.Clone(s.known) {
		if s.seen[id] {
			continue
		}
		delete(s.known, id)
		s.begin(ctx, id, func(ctx context.Context) { s.drop(ctx, id) })
	}
	var begun []*task
	for _, t := range s.work {
		begun = append(begun, t)
	}
	s.wg.Go(func() { s.awaitSync(ctx, begun) })
}

func (s *session) awaitSync(ctx context.Context, begun []*task) {
	patience := time.After(snapshotPatience)
	for _, t := range begun {
		select {
		case <-t.done:
			continue
		case <-ctx.Done():
			return
		case <-patience:
		}
		break
	}
	s.h.Synced()
	_ = s.link.send(message{Kind: kindSynced})
}

// podOf makes a Pod of an add message and its descriptors, all of which it
// takes over.
func podOf(m *podMessage, fds []int) (*Pod, error) {
	p := &Pod{ID: m.ID, Namespace: m.Namespace, Name: m.Name, ServiceAccount: m.ServiceAccount}
	var first error
	for i, fd := range fds {
		l, err := listenerOf(fd)
		if err != nil {
			first = errors.Join(first, err)
			continue
		}
		switch m.Listeners[i] {
		case Outbound:
			p.Outbound = append(p.Outbound, l)
		case Plaintext:
			p.Plaintext = append(p.Plaintext, l)
		case HBONE:
			p.HBONE = append(p.HBONE, l)
		}
	}
	if first != nil {
		_ = p.Close()
		return nil, first
	}
	return p, nil
}

// listenerOf takes fd over.
func listenerOf(fd int) (net.Listener, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pod listener")
	defer f.Close()
	return net.FileListener(f)
}

// order asks for sockets; arrive is called on the stock with the answer. It
// may block while the agent does not read, so no lock may be held that the
// reader needs.
func (s *session) order(p *podStock, family Family, count int) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.seq++
	m := message{Kind: kindSockets, Seq: s.seq, ID: p.pod, Family: family, Count: count}
	s.orders[m.Seq] = socketOrder{stock: p, family: family}
	s.mu.Unlock()
	_ = s.link.send(m) // a failure ends the session, and with it the order
}

func (s *session) arrived(m message, fds []int) {
	s.mu.Lock()
	o, ok := s.orders[m.Seq]
	delete(s.orders, m.Seq)
	s.mu.Unlock()
	if !ok {
		closeAll(fds)
		return
	}
	var err error
	if m.Error != "" {
		err = errors.New(m.Error)
	}
	o.stock.arrive(s, o.family, fds, err)
}

// failOrders ends the session for the stocks: those who wait go on waiting for
// the next one.
func (s *session) failOrders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.orders)
}
