package hbone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Request asks a Dialer for one tunnel.
type Request struct {
	// Authority is what the peer is asked to connect to: host:port.
	Authority string
	// Address is where the peer listens.
	Address netip.AddrPort
	// TLS is a configuration of package identity; it presents the source and
	// says whom to expect.
	TLS *tls.Config
	// PoolKey says which tunnels may share a TLS connection: those with equal
	// keys. It must be comparable, and has to tell apart everything that
	// Address and TLS depend on: source workload and identity, expected peers,
	// address, and the identity that is asserted, if any.
	PoolKey any
	// DialTCP makes the TCP connection to Address; nil dials from here. It is
	// used only when no connection of the pool has room.
	DialTCP func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	Header  Header
}

// DialerOptions adjust a Dialer. Zero values mean the defaults.
type DialerOptions struct {
	// ConnectTimeout bounds TCP connect and TLS handshake; 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection without tunnels is kept; 5 min.
	IdleTimeout time.Duration
	// PingInterval is the silence after which the peer is pinged, PingTimeout
	// the time it has to answer; 10 s and 20 s.
	PingInterval, PingTimeout time.Duration
}

// Dialer opens tunnels and keeps the TLS connections under them in a pool. At
// most 100 tunnels share one; at most one connection for each key is being made
// at a time. Its methods may be called concurrently.
type Dialer struct {
	opts   DialerOptions
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	groups map[any]*group
}

// group is the pool's part for one key.
type group struct {
	sessions []*session
	dialing  *attempt
}

// attempt is a connection being made; err is set when done is closed.
type attempt struct {
	done chan struct{}
	err  error
}

// NewDialer returns a Dialer with an empty pool. The caller closes it.
func NewDialer(o DialerOptions) *Dialer {
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 10*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 5*time.Minute)
	o.PingInterval = cmp.Or(o.PingInterval, 10*time.Second)
	o.PingTimeout = cmp.Or(o.PingTimeout, 20*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	return &Dialer{opts: o, ctx: ctx, cancel: cancel, groups: map[any]*group{}}
}

// Dial opens a tunnel. It returns when the peer has accepted it, so an error
// means that not a byte of the connection has been sent: a *ConnectError when
// no TLS connection could be made, a *StatusError when the peer refused, else
// why there was no answer. A tunnel that is lost with a pooled connection
// before it was answered is tried once more. The caller closes the Conn.
func (d *Dialer) Dial(ctx context.Context, r Request) (*Conn, error) {
	for retried := false; ; retried = true {
		s, reused, err := d.session(ctx, r)
		if err != nil {
			return nil, err
		}
		c, err := s.open(ctx, r.Authority, r.Header)
		if err == nil {
			c.reused = reused
			return c, nil
		}
		var u *unanswered
		if !errors.As(err, &u) || !reused || retried {
			return nil, err
		}
	}
}

// session returns a session with a stream reserved; reused tells whether it was
// there before.
func (d *Dialer) session(ctx context.Context, r Request) (s *session, reused bool, err error) {
	for reused = true; ; {
		s, a, mine, err := d.pick(r)
		if err != nil {
			return nil, false, err
		}
		if s != nil {
			return s, reused, nil
		}
		if mine {
			reused = false
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, false, &ConnectError{Stage: StageConnect, Err: context.Cause(ctx)}
		}
		if a.err != nil {
			return nil, false, a.err
		}
	}
}

// pick returns a session of the pool with room, or the attempt to wait for;
// mine tells that it was begun for this request.
func (d *Dialer) pick(r Request) (s *session, a *attempt, mine bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, false, ErrClosed
	}
	g := d.groups[r.PoolKey]
	if g == nil {
		g = &group{}
		d.groups[r.PoolKey] = g
	}
	now := time.Now()
	for _, s := range g.sessions {
		if s.reserve(now) {
			return s, nil, false, nil
		}
	}
	if g.dialing != nil {
		return nil, g.dialing, false, nil
	}
	a = &attempt{done: make(chan struct{})}
	g.dialing = a
	d.wg.Go(func() { d.connect(r, a) })
	return nil, a, true, nil
}

// connect makes a session and then serves it until it ends.
func (d *Dialer) connect(r Request, a *attempt) {
	s, err := d.handshake(r)
	d.mu.Lock()
	g := d.groups[r.PoolKey]
	g.dialing = nil
	if err == nil {
		g.sessions = append(g.sessions, s)
	} else {
		a.err = err
		d.prune(r.PoolKey, g)
	}
	d.mu.Unlock()
	close(a.done)
	if err != nil {
		return
	}
	stop := context.AfterFunc(d.ctx, func() { s.fail(ErrClosed) })
	defer stop()
	_ = s.run() // each tunnel tells its user why it ended
	d.remove(r.PoolKey, s)
}

func (d *Dialer) handshake(r Request) (*session, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.opts.ConnectTimeout)
	defer cancel()
	dial := r.DialTCP
	if dial == nil {
		dial = dialTCP
	}
	raw, err := dial(ctx, r.Address)
	if err != nil {
		return nil, &ConnectError{Stage: StageConnect, Err: err}
	}
	t := timing{pingEvery: d.opts.PingInterval, pingTimeout: d.opts.PingTimeout, idle: d.opts.IdleTimeout}
	return connect(ctx, raw, r.TLS, t)
}

func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
}

func (d *Dialer) remove(key any, s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.groups[key]
	g.sessions = slices.DeleteFunc(g.sessions, func(x *session) bool { return x == s })
	d.prune(key, g)
}

func (d *Dialer) prune(key any, g *group) {
	if len(g.sessions) == 0 && g.dialing == nil {
		delete(d.groups, key)
	}
}

// Release takes the connections whose keys match out of use: they carry no new
// tunnels and close after the last of those they have.
func (d *Dialer) Release(match func(key any) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, g := range d.groups {
		if !match(key) {
			continue
		}
		for _, s := range g.sessions {
			s.goAway()
		}
	}
}

// Close cuts all tunnels and waits until nothing of the Dialer runs. Dial fails
// with ErrClosed from then on.
func (d *Dialer) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}

// PoolInfo describes the connections of one key, for a config dump.
type PoolInfo struct {
	Key         string `json:"key"`
	Peer        string `json:"peer,omitempty"`
	Connections int    `json:"connections"`
	Tunnels     int    `json:"tunnels"`
	Connecting  bool   `json:"connecting,omitempty"`
}

// Pools returns what is in the pool, sorted by key.
func (d *Dialer) Pools() []PoolInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]PoolInfo, 0, len(d.groups))
	for key, g := range d.groups {
		info := PoolInfo{Key: fmt.Sprint(key), Connections: len(g.sessions), Connecting: g.dialing != nil}
		for _, s := range g.sessions {
			info.Peer = s.peer.String()
			info.Tunnels += s.tunnels()
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b PoolInfo) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func (s *session) tunnels() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}
