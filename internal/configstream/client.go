package configstream

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// ClientOptions say where the server is and what becomes of what it sends. The
// functions are called by Run, one at a time.
type ClientOptions struct {
	// Address is the server's host:port; the host is resolved at every attempt.
	Address string
	// TLS authenticates the server. Required.
	TLS *tls.Config
	// Token returns the bearer token; it is asked at every attempt. Required.
	Token func() (string, error)
	// Node, Role and Version are what the client says of itself. Role also
	// chooses the types it subscribes to.
	Node    string
	Role    Role
	Version string
	// Worlds gets the mesh types, one Apply for each response. Optional.
	Worlds *mesh.Store
	// OnMesh gets the same update after Worlds. Optional.
	OnMesh func(mesh.Update)
	// OnTables gets the routing tables; an error refuses them (TableErrors
	// refuses some). The caller keeps the last good ones then. Required for
	// RoleProxy.
	OnTables func(up []*routing.Table, removed []routing.TableKey) error
	// OnSynced is called once: when every type has come for the first time.
	OnSynced func()
	// Log gets connects, disconnects and refusals; nil discards them.
	Log *slog.Logger
	// Registry gets the client's metrics; nil keeps them out of sight.
	Registry prometheus.Registerer
}

// Client keeps one stream to the server and the last good config.
type Client struct {
	opts    ClientOptions
	log     *slog.Logger
	metrics *clientMetrics
	inbox   *inbox
	synced  atomic.Bool

	// started is closed when conn is there.
	started chan struct{}
	conn    *grpc.ClientConn
	// dial and creds replace TCP and TLS in a Local.
	dial  func(ctx context.Context, address string) (net.Conn, error)
	creds credentials.TransportCredentials

	mu   sync.Mutex
	lost time.Time // since when there is no stream; zero while there is one
}

// NewClient returns a Client that does nothing until Run.
func NewClient(o ClientOptions) *Client {
	c := &Client{opts: o, log: o.Log, inbox: newInbox(o), started: make(chan struct{}), lost: time.Now()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.metrics = newClientMetrics(o.Registry, c.lostSince)
	if o.TLS != nil {
		c.creds = credentials.NewTLS(o.TLS)
	}
	return c
}

// Run connects, and connects again whenever the stream breaks, until ctx ends;
// it then returns nil. What the client has learned stays across streams: the
// server is told and sends the difference. Any other error means that the
// options are not complete. Run is called once.
func (c *Client) Run(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	options := append(dialOptions(), grpc.WithTransportCredentials(c.creds))
	if c.dial != nil {
		options = append(options, grpc.WithContextDialer(c.dial))
	}
	// passthrough: the dialer resolves the name, at every attempt.
	conn, err := grpc.NewClient("passthrough:///"+c.opts.Address, options...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c.conn = conn
	close(c.started)
	var p pause
	for ctx.Err() == nil {
		heard, err := c.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		if heard {
			p.reset()
		}
		d := p.next()
		c.log.Warn("config stream: broken", "error", err, "retry", d)
		wait(ctx, d)
	}
	return nil
}

func (c *Client) check() error {
	switch {
	case c.creds == nil:
		return errors.New("config stream client: no TLS config")
	case c.opts.Token == nil:
		return errors.New("config stream client: no token source")
	case c.opts.Role == RoleProxy && c.opts.OnTables == nil:
		return errors.New("config stream client: a proxy without OnTables")
	}
	return nil
}

// Synced reports whether every type has come at least once.
func (c *Client) Synced() bool { return c.synced.Load() }

// Report sends the state of pods to the server and returns when it has taken
// it. It waits for Run to have been called, but tries only once.
func (c *Client) Report(ctx context.Context, pods []PodReport) error {
	select {
	case <-c.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, err := withToken(ctx, c.opts.Token)
	if err != nil {
		return err
	}
	_, err = configpb.NewNodeReportsClient(c.conn).Report(ctx, &configpb.ReportRequest{Pods: each(pods, encodeReport)})
	return err
}

// lostSince returns since when there is no stream, the zero time if there is.
func (c *Client) lostSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

func (c *Client) setLost(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = t
}

// Pauses between attempts.
const (
	minPause = 100 * time.Millisecond
	maxPause = 15 * time.Second
)

// pause doubles from minPause to maxPause; a random quarter of it either way
// keeps a cluster's proxies from coming back all at once.
type pause struct{ base time.Duration }

func (p *pause) reset() { p.base = 0 }

func (p *pause) next() time.Duration {
	p.base = min(max(minPause, 2*p.base), maxPause)
	return p.base*3/4 + rand.N(p.base/2)
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
