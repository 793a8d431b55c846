package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// ErrUnknownPod is returned by DialFrom for a pod that was never added or has
// been removed.
var ErrUnknownPod = errors.New("handoff: unknown pod")

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
	// helloTimeout bounds the time until the agent has answered the hello.
	helloTimeout = 5 * time.Second
)

// Client is ztunnel's end.
type Client struct {
	path    string
	log     *slog.Logger
	started int64

	mu      sync.Mutex
	session *session // nil while there is no agent
	stocks  map[mesh.WorkloadID]*podStock
}

// NewClient returns a client of the agent that listens at path. Run starts it.
func NewClient(path string, log *slog.Logger) *Client {
	return &Client{path: path, log: log, started: time.Now().UnixNano(), stocks: map[mesh.WorkloadID]*podStock{}}
}

// Run keeps a connection to the agent until ctx ends, and calls the handler. It
// reconnects when the agent goes away; pods stay as they are meanwhile. It
// returns ctx's error, after all calls to the handler have returned, and closes
// the sockets in stock, not the pods' listeners.
func (c *Client) Run(ctx context.Context, h Handler) error {
	defer c.closeStocks()
	backoff := minBackoff
	known := map[mesh.WorkloadID]bool{}
	for ctx.Err() == nil {
		greeted, err := c.serveOnce(ctx, h, known)
		if ctx.Err() != nil {
			break
		}
		c.log.Warn("no connection to the node agent", "path", c.path, "error", err)
		if greeted {
			backoff = minBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return ctx.Err()
}

// serveOnce lives through one connection. known are the pods that the handler
// has, kept from one connection to the next.
func (c *Client) serveOnce(ctx context.Context, h Handler, known map[mesh.WorkloadID]bool) (greeted bool, err error) {
	l, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	s := newSession(c, l, h, known)
	c.setSession(s)
	defer c.setSession(nil)
	return true, s.run(ctx)
}

// connect dials the agent and says hello.
func (c *Client) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, err
	}
	l := newLink(conn.(*net.UnixConn))
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	if err := c.hello(l); err != nil {
		l.close()
		return nil, fmt.Errorf("hello: %w", err)
	}
	return l, nil
}

func (c *Client) hello(l *link) error {
	if err := l.send(message{Kind: kindHello, Versions: []int{version}, Started: c.started}); err != nil {
		return err
	}
	m, fds, err := l.receive()
	if err != nil {
		return err
	}
	closeAll(fds)
	switch {
	case m.Kind != kindHello:
		return fmt.Errorf("answered by %q", m.Kind)
	case m.Error != "":
		return errors.New(m.Error)
	case !slices.Equal(m.Versions, []int{version}):
		return fmt.Errorf("agent chose version %v", m.Versions)
	}
	return nil
}

func (c *Client) setSession(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	for _, p := range c.stocks {
		p.attach(s)
	}
}

// know makes the pod's stock; it is empty until the first DialFrom. A pod whose
// network namespace is another than before gets a new one.
func (c *Client) know(id mesh.WorkloadID, netns uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.stocks[id]
	if old != nil && old.netns == netns {
		return
	}
	p := newPodStock(id, netns)
	p.attach(c.session)
	c.stocks[id] = p
	if old != nil {
		old.close()
	}
}

func (c *Client) forget(id mesh.WorkloadID) {
	c.mu.Lock()
	p := c.stocks[id]
	delete(c.stocks, id)
	c.mu.Unlock()
	if p != nil {
		p.close()
	}
}

func (c *Client) closeStocks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.stocks {
		p.close()
		delete(c.stocks, id)
	}
}

func (c *Client) stockOf(id mesh.WorkloadID) *podStock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stocks[id]
}

// DialFrom connects to remote from the network namespace of the pod, with a
// socket that its redirect rules let pass. The zero local is the pod's own
// address; a set one may be any address (of the client whom ztunnel stands in
// for), and its port is 0 unless a certain one is wanted. It needs no
// privilege: the agent made the socket. While the agent is away it waits for
// it once the stock is empty, until ctx ends. The caller closes the connection.
func (c *Client) DialFrom(ctx context.Context, pod mesh.WorkloadID, local, remote netip.AddrPort) (*net.TCPConn, error) {
	p := c.stockOf(pod)
	if p == nil {
		return nil, ErrUnknownPod
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	family := IPv6
	if remote.Addr().Is4() {
		family = IPv4
	}
	f, err := p.take(ctx, family)
	if err != nil {
		return nil, fmt.Errorf("socket for pod %s: %w", pod, err)
	}
	defer f.Close()
	if err := connect(ctx, f, local, remote); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(remote), Err: err}
	}
	return asTCP(f)
}

// asTCP makes a connection of a connected socket; f stays the caller's.
func asTCP(f *os.File) (*net.TCPConn, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("handed-over socket: %w", err)
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("handed-over socket is a %T", conn)
	}
	return tcp, nil
}
