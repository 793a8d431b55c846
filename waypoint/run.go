package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/svid"
	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// process is a waypoint with all that surrounds it.
type process struct {
	cfg    Config
	ids    identities
	log    *slog.Logger
	reg    *prometheus.Registry
	admin  *admin.Server
	worlds mesh.Store
	certs  *svid.Manager
}

// Run is the program: it gets a certificate and config, serves until ctx ends,
// and drains.
func Run(ctx context.Context, cfg Config) error {
	level, err := telemetry.ParseLevel(cfg.LogLevel)
	if err != nil {
		return err
	}
	ids, err := cfg.identities()
	if err != nil {
		return err
	}
	w := &process{cfg: cfg, ids: ids, log: telemetry.NewLogger(os.Stderr, "waypoint", level), reg: prometheus.NewRegistry()}
	w.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w.admin = admin.New("waypoint", w.reg)
	return w.run(ctx)
}

func (w *process) run(ctx context.Context) error {
	tracing, err := telemetry.NewTracing(ctx, telemetry.TraceOptions{
		Endpoint: w.cfg.OTLPEndpoint, Insecure: true, Sampling: w.cfg.TraceSampling,
		ServiceName: w.cfg.Gateway.Name, ServiceNamespace: w.cfg.Gateway.Namespace,
		InstanceID: w.cfg.PodUID, PodName: w.cfg.PodName, Node: w.cfg.Node,
	})
	if err != nil {
		return err
	}
	defer w.shutdown(tracing)

	roots := identity.FileBundle(w.cfg.RootCert, func(err error) { w.log.Warn("cannot read the controller's roots", "error", err) })
	controller := func() *tls.Config { return identity.ControllerClientTLS(roots, w.ids.controller) }
	conn, err := grpc.NewClient(w.cfg.ControllerAddress, grpc.WithTransportCredentials(credentials.NewTLS(controller())))
	if err != nil {
		return fmt.Errorf("controller address: %w", err)
	}
	defer conn.Close()
	w.certs = svid.NewManager(svid.ManagerOptions{Issuer: svid.NewClient(conn, w.cfg.readToken), Log: w.log, Registry: w.reg})

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", w.cfg.HBONEPort))
	if err != nil {
		return fmt.Errorf("HBONE port: %w", err)
	}
	defer ln.Close()
	return w.serve(ctx, ln, tracing, controller())
}

// serve runs the parts. What the data path needs, config and certificates,
// lives until the data path has drained.
func (w *process) serve(ctx context.Context, ln net.Listener, tracing *telemetry.Tracing, controller *tls.Config) error {
	certified, configured := w.admin.Gate("certificate"), w.admin.Gate("config")
	support, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	parts, support := errgroup.WithContext(support)
	parts.Go(func() error { return w.admin.Run(support, w.cfg.Admin) })
	parts.Go(func() error { return w.certs.Run(support) })

	data, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(support, stop) // a part that fails ends the process
	parts.Go(func() error {
		defer done()
		self, err := svid.Self(data, w.certs, w.ids.self)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		certified()
		p := w.proxy(self, tracing)
		defer p.Close()
		parts.Go(func() error { return w.subscribe(support, p, controller, configured) })
		return w.serveUntil(data, ln, p)
	})
	err := parts.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (w *process) proxy(self identity.Source, tracing *telemetry.Tracing) *Proxy {
	p := New(Options{
		TrustDomain: w.ids.trustDomain, Identity: self, Worlds: &w.worlds, Tracing: tracing, Registry: w.reg, Log: w.log,
		Server: &wire.StdServer{Log: w.log}, Client: wire.NewStdClient(wire.StdClientOptions{}),
	})
	w.admin.Dump("tables", p.Dump)
	w.admin.Dump("certificates", func() any { return w.certs.Certificates() })
	w.admin.Dump("tunnels", func() any { return p.tunnels.Pools() })
	return p
}

// subscribe keeps the config stream. Its error after the end of ctx is none.
func (w *process) subscribe(ctx context.Context, p *Proxy, controller *tls.Config, synced func()) error {
	client := configstream.NewClient(configstream.ClientOptions{
		Address: w.cfg.ControllerAddress, TLS: controller, Token: w.cfg.readToken,
		Node: w.cfg.Node, Role: configstream.RoleProxy, Version: w.cfg.Version,
		Worlds: &w.worlds, OnTables: p.OnTables, OnSynced: synced, Log: w.log, Registry: w.reg,
	})
	if err := client.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// serveUntil serves until ctx ends. Then the process says that it is not ready,
// and goes on taking tunnels until the nodes have heard of that.
func (w *process) serveUntil(ctx context.Context, ln net.Listener, p *Proxy) error {
	accepting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	linger := time.AfterFunc(time.Hour, stop)
	linger.Stop()
	defer linger.Stop()
	context.AfterFunc(ctx, func() {
		w.log.Info("draining", "linger", w.cfg.Linger.String(), "drain", w.cfg.Drain.String())
		w.admin.Drain()
		linger.Reset(w.cfg.Linger)
	})
	w.log.Info("serving", "address", ln.Addr().String(), "identity", w.ids.self.String())
	return p.Serve(accepting, ln, w.cfg.Drain)
}

// shutdown gives the last spans a moment to leave.
func (w *process) shutdown(tracing *telemetry.Tracing) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := tracing.Shutdown(ctx); err != nil {
		w.log.Debug("spans lost", "error", err)
	}
}
