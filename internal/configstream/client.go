package configstream

import (
	"context"
	"crypto/tls"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

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
type Client struct{ opts ClientOptions }

// NewClient returns a Client that does nothing until Run.
func NewClient(o ClientOptions) *Client { return &Client{opts: o} }

// Run keeps the stream until ctx ends.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Report sends the state of pods to the server. Run must be running.
func (c *Client) Report(ctx context.Context, pods []PodReport) error { return nil }

// Synced reports whether every type has come at least once.
func (c *Client) Synced() bool { return false }

// TableErrors refuses single tables: those named are kept out and reported to
// the server, the others count as applied.
type TableErrors map[routing.TableKey]error

func (e TableErrors) Error() string { return "" }
