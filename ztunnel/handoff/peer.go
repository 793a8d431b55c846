package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// socketBacklog is how many socket requests of one ztunnel may wait; beyond
// that its messages are not read until one is done.
const socketBacklog = 64

// peer is one connected ztunnel.
type peer struct {
	server *Server
	link   *link
	wants  chan message // socket requests

	started int64 // when its process was
	settled bool  // it serves its snapshot; guarded by server.mu

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]*exchange
	adds    map[mesh.WorkloadID]*exchange // the last add of each pod
	gone    bool
	drained bool
}

// exchange is a message that was sent and its answer.
type exchange struct {
	of   *held         // of an add
	done chan struct{} // closed when err is set
	err  error
}

func (e *exchange) finish(err error) {
	e.err = err
	close(e.done)
}

// failed reports whether the exchange is over without success.
func (e *exchange) failed() bool {
	select {
	case <-e.done:
		return e.err != nil
	default:
		return false
	}
}

func (e *exchange) wait(ctx context.Context) error {
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return fmt.Errorf("ztunnel has not answered: %w", ctx.Err())
	}
}

// serve lives through one connection.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	l := newLink(conn)
	defer l.close()
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	pid, started, err := s.admit(l)
	if err != nil {
		s.opt.Log.Warn("refused a connection on the handoff socket", "error", err)
		return
	}
	p := &peer{
		server: s, link: l, started: started,
		wants:   make(chan message, socketBacklog),
		waiting: map[uint64]*exchange{},
		adds:    map[mesh.WorkloadID]*exchange{},
	}
	s.opt.Log.Info("ztunnel connected", "pid", pid)
	err = p.run()
	if ctx.Err() == nil && !errors.Is(err, io.EOF) {
		s.opt.Log.Warn("ztunnel disconnected", "pid", pid, "error", err)
		return
	}
	s.opt.Log.Info("ztunnel disconnected", "pid", pid)
}

// admit checks who connected and answers the hello.
func (s *Server) admit(l *link) (pid int32, started int64, err error) {
	cred, err := credentials(l.conn)
	if err != nil {
		return 0, 0, fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() && !slices.Contains(s.opt.UIDs, cred.Uid) {
		return 0, 0, fmt.Errorf("uid %d (pid %d) may not connect", cred.Uid, cred.Pid)
	}
	m, fds, err := l.receiveWithin(helloTimeout)
	if err != nil {
		return 0, 0, fmt.Errorf("hello: %w", err)
	}
	closeAll(fds)
	if m.Kind != kindHello {
		return 0, 0, fmt.Errorf("pid %d began with %q", cred.Pid, m.Kind)
	}
	if !slices.Contains(m.Versions, version) {
		err := fmt.Errorf("no common version: agent speaks %d, ztunnel %v", version, m.Versions)
		_ = l.send(message{Kind: kindHello, Error: err.Error()})
		return 0, 0, err
	}
	return cred.Pid, m.Started, l.send(message{Kind: kindHello, Versions: []int{version}})
}

func credentials(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(ctlErr, err)
}

func (p *peer) run() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.leave()
	snapshot := p.server.join(p)
	wg.Go(p.makeSockets)
	over := make(chan struct{})
	wg.Go(func() { p.sendSnapshot(snapshot, over) })
	defer close(over)
	defer close(p.wants)
	for {
		m, fds, err := p.link.receive()
		if err != nil {
			return err
		}
		closeAll(fds)
		if err := p.handle(m); err != nil {
			return err
		}
	}
}

func (p *peer) handle(m message) error {
	switch m.Kind {
	case kindAck:
		p.answer(m)
	case kindSynced:
		p.server.settle(p)
	case kindSockets:
		if m.Count == 0 {
			return errors.New("request for no socket")
		}
		p.wants <- m
	default:
		return fmt.Errorf("unexpected message %q", m.Kind)
	}
	return nil
}

// sendSnapshot sends the pods that were on offer when the peer came. Later ones
// come by Add; those that do so until the Server is complete belong to the
// snapshot too.
func (p *peer) sendSnapshot(pods []*held, over <-chan struct{}) {
	for _, h := range pods {
		if _, err := p.begin(h); err != nil && errors.Is(err, errGone) {
			return
		}
	}
	select {
	case <-p.server.complete:
	case <-over:
		return
	}
	_ = p.link.send(message{Kind: kindSnapshot}) // a failure ends the reader
}

// leave fails everything that waits.
func (p *peer) leave() {
	p.link.close()
	p.mu.Lock()
	p.gone = true
	for seq, e := range p.waiting {
		e.finish(errGone)
		delete(p.waiting, seq)
	}
	p.mu.Unlock()
	p.server.leave(p)
}

func (p *peer) answer(m message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.waiting[m.Seq]
	if e == nil {
		return
	}
	delete(p.waiting, m.Seq)
	if m.Error != "" {
		e.finish(errors.New(m.Error))
		return
	}
	e.finish(nil)
}

// add waits for the pod to be taken in; it sends it unless that was done.
func (p *peer) add(ctx context.Context, h *held) error {
	e, err := p.begin(h)
	if err != nil {
		return err
	}
	return e.wait(ctx)
}

// begin sends the pod, unless it was sent and has not failed. The lock is held
// over the send, so that a removal cannot overtake it.
func (p *peer) begin(h *held) (*exchange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil, errGone
	}
	if e := p.adds[h.ID]; e != nil && e.of == h && !e.failed() {
		return e, nil
	}
	p.seq++
	e := &exchange{of: h, done: make(chan struct{})}
	if h.isWithdrawn() { // removed since the snapshot was taken
		e.finish(fmt.Errorf("pod %s was removed", h.ID))
		return e, nil
	}
	if err := h.send(p.link, p.seq); err != nil {
		return nil, err
	}
	p.adds[h.ID], p.waiting[p.seq] = e, e
	return e, nil
}

// remove waits until the ztunnel has let the pod go. A ztunnel that is gone
// has.
func (p *peer) remove(ctx context.Context, id mesh.WorkloadID) error {
	e, err := p.beginRemove(id)
	if err == nil && e != nil {
		err = e.wait(ctx)
	}
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

func (p *peer) beginRemove(id mesh.WorkloadID) (*exchange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil, errGone
	}
	if p.adds[id] == nil { // never sent to this one
		return nil, nil
	}
	delete(p.adds, id)
	p.seq++
	e := &exchange{done: make(chan struct{})}
	if err := p.link.send(message{Kind: kindRemove, Seq: p.seq, ID: id}); err != nil {
		return nil, err
	}
	p.waiting[p.seq] = e
	return e, nil
}

func (p *peer) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drained || p.gone {
		return
	}
	p.drained = true
	_ = p.link.send(message{Kind: kindDrain}) // a failure ends the reader
}

// makeSockets answers socket requests, one after the other.
func (p *peer) makeSockets() {
	for want := range p.wants {
		m := message{Kind: kindSockets, Seq: want.Seq}
		fds, err := p.server.opt.Sockets(want.ID, want.Family, want.Count)
		if err != nil {
			m.Error = err.Error()
		}
		_ = p.link.send(m, fds...) // a failure ends the reader, which closes wants
		closeAll(fds)
	}
}
