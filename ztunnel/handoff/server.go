package handoff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Listener is a listening socket that the agent holds.
type Listener struct {
	Purpose Purpose
	FD      int
}

// Offer is an enrolled pod as the agent hands it out.
type Offer struct {
	ID             mesh.WorkloadID
	Namespace      string
	Name           string
	ServiceAccount string
	// NetNS is the inode number of the pod's network namespace.
	NetNS uint64
	// Listeners belong to the Server from Add to the end of Remove, which
	// closes them.
	Listeners []Listener
}

// SocketMaker makes count TCP sockets of the family in the network namespace of
// the pod: unconnected, unbound, marked so that redirect rules let them pass,
// with the right to bind to any address. The caller closes them.
type SocketMaker func(pod mesh.WorkloadID, family Family, count int) ([]int, error)

// ServerOptions configures a Server.
type ServerOptions struct {
	// Path of the unix socket; a stale one is replaced. It gets mode 0666
	// unless Mode says otherwise: who may speak is decided by the peer's
	// credentials, not by the file.
	Path string
	Mode fs.FileMode
	// UIDs may connect, besides root and the Server's own.
	UIDs    []uint32
	Sockets SocketMaker
	Log     *slog.Logger
}

// Server is the agent's end.
type Server struct {
	opt ServerOptions

	complete chan struct{} // closed when every pod of the node was offered
	once     sync.Once

	mu      sync.Mutex
	pods    map[mesh.WorkloadID]*held
	peers   []*peer // oldest first
	changed chan struct{}
}

// held is an offered pod. Its lock keeps the descriptors open while they are
// being sent.
type held struct {
	Offer
	mu        sync.RWMutex
	withdrawn bool // to be sent no more
	closed    bool
}

// NewServer returns a Server without pods. Run starts it.
func NewServer(o ServerOptions) *Server {
	if o.Mode == 0 {
		o.Mode = 0o666
	}
	return &Server{
		opt: o, complete: make(chan struct{}),
		pods: map[mesh.WorkloadID]*held{}, changed: make(chan struct{}),
	}
}

// Complete says that every pod that is enrolled already has been offered by
// Add. Until then no ztunnel is told that its snapshot is complete: one that
// lived through a restart of the agent keeps the pods it has, and a new one is
// not ready. It may be called more than once.
func (s *Server) Complete() { s.once.Do(func() { close(s.complete) }) }

// Run listens and serves until ctx ends. The pods' listeners stay open; Close
// closes them.
func (s *Server) Run(ctx context.Context) error {
	ln, err := listen(s.opt.Path, s.opt.Mode)
	if err != nil {
		return fmt.Errorf("handoff socket: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.AcceptUnix()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.opt.Log.Warn("cannot accept a ztunnel", "error", err)
			if !pause(ctx, minBackoff) {
				return ctx.Err()
			}
			continue
		}
		wg.Go(func() { s.serve(ctx, conn) })
	}
}

// Close closes the listeners of all pods. Only after Run has returned.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, h := range s.pods {
		h.close()
		delete(s.pods, id)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func listen(path string, mode fs.FileMode) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	// A successor may have put its own socket there before this one closes.
	ln.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// Add offers a pod and waits until a ztunnel has taken it in.
func (s *Server) Add(ctx context.Context, o Offer) error {
	if err := s.Offer(o); err != nil {
		return err
	}
	return s.Await(ctx, o.ID)
}

// Offer offers a pod to the newest ztunnel, and to every later one. It takes
// over the listeners. It waits for nothing.
func (s *Server) Offer(o Offer) error {
	if len(o.Listeners) == 0 {
		return fmt.Errorf("offer of pod %s without listeners", o.ID)
	}
	s.mu.Lock()
	if s.pods[o.ID] != nil {
		s.mu.Unlock()
		return fmt.Errorf("pod %s is on offer already", o.ID)
	}
	h := &held{Offer: o}
	s.pods[o.ID] = h
	s.mu.Unlock()
	if p, _ := s.newest(); p != nil {
		_, _ = p.begin(h) // Await tells what came of it
	}
	return nil
}

// Await waits until the newest ztunnel has taken the pod in; while none is
// connected it waits for one. If that ztunnel has failed to take it, Await has
// it try again. The pod stays on offer, whatever Await returns.
func (s *Server) Await(ctx context.Context, id mesh.WorkloadID) error {
	s.mu.Lock()
	h := s.pods[id]
	s.mu.Unlock()
	if h == nil {
		return fmt.Errorf("pod %s is not on offer", id)
	}
	for {
		p, changed := s.newest()
		if p != nil {
			err := p.add(ctx, h)
			if !errors.Is(err, errGone) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no ztunnel has taken the pod: %w", ctx.Err())
		case <-changed:
		}
	}
}

// Remove takes the pod back from all ztunnels, waits until they have said
// goodbye for it or ctx ends, and closes its listeners.
func (s *Server) Remove(ctx context.Context, id mesh.WorkloadID) error {
	s.mu.Lock()
	h := s.pods[id]
	delete(s.pods, id)
	peers := slices.Clone(s.peers)
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	h.withdraw()
	errs := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() { errs[i] = p.remove(ctx, id) })
	}
	wg.Wait()
	h.close()
	return errors.Join(errs...)
}

// Connected returns the number of ztunnels that are connected, and a channel
// that is closed when it changes.
func (s *Server) Connected() (n int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers), s.changed
}

func (s *Server) newest() (*peer, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) == 0 {
		return nil, s.changed
	}
	return s.peers[len(s.peers)-1], s.changed
}

// join takes p in, at its place by age; the pods returned are its snapshot.
func (s *Server) join(p *peer) []*held {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = append(s.peers, p)
	slices.SortStableFunc(s.peers, func(a, b *peer) int { return cmp.Compare(a.started, b.started) })
	s.wake()
	return slices.Collect(maps.Values(s.pods))
}

func (s *Server) leave(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = slices.DeleteFunc(s.peers, func(q *peer) bool { return q == p })
	s.wake()
}

func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// settle is called when p serves its snapshot: all but the newest of those who
// do have been taken over from.
func (s *Server) settle(p *peer) {
	s.mu.Lock()
	p.settled = true
	last := len(s.peers) - 1
	for last >= 0 && !s.peers[last].settled {
		last--
	}
	older := slices.Clone(s.peers[:max(0, last)])
	s.mu.Unlock()
	for _, q := range older {
		q.drain()
	}
}

// send sends the pod with its listeners, which cannot be closed meanwhile.
func (h *held) send(l *link, seq uint64) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed {
		return fmt.Errorf("pod %s was removed", h.ID)
	}
	m := &podMessage{ID: h.ID, Namespace: h.Namespace, Name: h.Name, ServiceAccount: h.ServiceAccount, NetNS: h.NetNS}
	var fds []int
	for _, ln := range h.Listeners {
		m.Listeners = append(m.Listeners, ln.Purpose)
		fds = append(fds, ln.FD)
	}
	return l.send(message{Kind: kindAdd, Seq: seq, Pod: m}, fds...)
}

func (h *held) isWithdrawn() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.withdrawn
}

// withdraw keeps the pod from being sent to anyone who has not got it.
func (h *held) withdraw() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.withdrawn = true
}

func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	for _, ln := range h.Listeners {
		closeAll([]int{ln.FD})
	}
}
