package configstream

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// Local is a network in memory with one place for a Server and any number of
// clients, for the tests of those who use this package. Servers may come and
// go; clients meet whichever is there.
type Local struct {
	mu     sync.Mutex
	server *Server
	ln     *bufconn.Listener // nil while no server runs
}

// NewLocal returns a Local for the server. It carries nothing until Run.
func NewLocal(s *Server) *Local { return &Local{server: s} }

// Run serves until ctx ends and nothing of it is left; it may be called again
// then.
func (l *Local) Run(ctx context.Context) error {
	ln := bufconn.Listen(64 << 10)
	l.mu.Lock()
	s := l.server
	l.ln = ln
	l.mu.Unlock()
	g := grpc.NewServer(GRPCOptions()...)
	s.Register(g)
	var stopper sync.WaitGroup
	stop, cancel := context.WithCancel(ctx)
	stopper.Go(func() {
		<-stop.Done()
		l.mu.Lock()
		l.ln = nil
		l.mu.Unlock()
		g.Stop()
	})
	err := g.Serve(ln)
	cancel()
	stopper.Wait()
	s.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Replace puts another server, "the controller after a restart", in the place
// of the first at the next Run.
func (l *Local) Replace(s *Server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = s
}

// Client returns a client that dials the Local. Address and TLS are not used;
// an absent Token is "local".
func (l *Local) Client(o ClientOptions) *Client {
	o.Address, o.TLS = "local", nil
	if o.Token == nil {
		o.Token = func() (string, error) { return "local", nil }
	}
	c := NewClient(o)
	c.creds = insecure.NewCredentials()
	c.dial = l.connect
	return c
}

func (l *Local) connect(ctx context.Context, _ string) (net.Conn, error) {
	l.mu.Lock()
	ln := l.ln
	l.mu.Unlock()
	if ln == nil {
		return nil, errors.New("no server is there")
	}
	return ln.DialContext(ctx)
}

// Tokens is an Authenticator in memory: the peers by their tokens.
type Tokens map[string]Peer

// Authenticate is a ServerOptions.Authenticate.
func (t Tokens) Authenticate(_ context.Context, token string) (Peer, error) {
	if p, ok := t[token]; ok {
		return p, nil
	}
	return Peer{}, errors.New("unknown token")
}
