package waypoint

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

// Options are what a Proxy needs from its surroundings. All are required but
// Dial.
type Options struct {
	// TrustDomain is that of the clients let in.
	TrustDomain spiffeid.TrustDomain
	// Identity is the waypoint's own certificate.
	Identity identity.Source
	Worlds   *mesh.Store
	Tracing  *telemetry.Tracing
	Registry prometheus.Registerer
	Log      *slog.Logger
	// Server and Client are the HTTP engines. The Proxy closes the Client.
	Server wire.Server
	Client wire.Client
	// Dial makes TCP connections to endpoints; nil is the ordinary way.
	Dial upstream.DialFunc
}

// Proxy is the data path of a waypoint.
type Proxy struct {
	opts    Options
	log     *slog.Logger
	tracer  trace.Tracer
	tables  tables
	metrics *metrics
	hbone   *hbone.Server
	tunnels *hbone.Dialer
	forward *upstream.Forwarder
	mirrors sync.WaitGroup
	// tableWait is defaultTableWait but in tests.
	tableWait time.Duration

	draining context.Context // ends when Drain is called
	drain    context.CancelFunc
}

// New returns a Proxy without tables. The caller serves it with Serve and
// closes it.
func New(o Options) *Proxy {
	p := &Proxy{
		opts: o, log: o.Log, tableWait: defaultTableWait, tracer: o.Tracing.Tracer(), metrics: newMetrics(o.Registry),
		hbone: hbone.NewServer(hbone.ServerOptions{}), tunnels: hbone.NewDialer(hbone.DialerOptions{}),
	}
	p.draining, p.drain = context.WithCancel(context.Background())
	p.forward = &upstream.Forwarder{
		Balancer: upstream.NewBalancer(o.Worlds),
		Connector: &upstream.Connector{
			Tunnels: p.tunnels, Identity: o.Identity, DialTCP: o.Dial, OnConnect: p.metrics.connected,
		},
		Client: o.Client,
	}
	return p
}

// Drain lets requests under way finish and takes no others: tunnels get GOAWAY,
// connections inside them end after the request they carry.
func (p *Proxy) Drain() {
	p.drain()
	p.hbone.Drain()
}

// Close closes what Serve has left in pools. Serve must have returned.
func (p *Proxy) Close() {
	p.drain()
	p.mirrors.Wait()
	p.opts.Client.Close()
	p.tunnels.Close()
}

// OnTables takes over tables, and refuses by name those that cannot be
// compiled: their old ones stay. It is for the config stream.
func (p *Proxy) OnTables(up []*routing.Table, removed []routing.TableKey) error {
	refused := configstream.TableErrors{}
	var ready []*table
	for _, t := range up {
		c, err := compileTable(t)
		if err != nil {
			refused[t.Key] = err
			p.log.Warn("routing table refused", "parent", tableName(t.Key), "error", err)
			continue
		}
		ready = append(ready, c)
	}
	var gone []mesh.ServiceKey
	for _, k := range removed {
		gone = append(gone, mesh.ServiceKey{Namespace: k.Parent.Namespace, Name: k.Parent.Name})
	}
	p.tables.apply(ready, gone)
	p.metrics.forget(gone)
	if len(refused) > 0 {
		return refused
	}
	return nil
}
