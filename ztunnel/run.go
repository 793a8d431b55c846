package ztunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/svid"
	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
)

const (
	// socketName is the node agent's socket in the run directory.
	socketName = "ztunnel.sock"
	// controllerAccount is the controller's service account.
	controllerAccount = "towpath-controller"
	// flushTimeout bounds the export of the last spans.
	flushTimeout = 5 * time.Second
)

// Config is what the command line says.
type Config struct {
	// ControllerAddress is the controller's host:port.
	ControllerAddress string
	// ControllerNamespace is the namespace that the controller runs in, as which
	// it has to identify itself.
	ControllerNamespace string
	TrustDomain         spiffeid.TrustDomain
	// RootCert and Token are files: the root certificates by which to judge the
	// controller, and the token to show it.
	RootCert, Token string
	// RunDir is where the node agent's socket is.
	RunDir string
	// Node and Pod are the names of the node and of this process's own pod.
	Node, Pod string
	// Drain is how long the connections of removed pods, and of all when a newer
	// ztunnel has taken over, may go on; ShutdownDrain the same when the process
	// is told to end.
	Drain, ShutdownDrain time.Duration
	Trace                telemetry.TraceOptions
	Log                  *slog.Logger
	Version              string
	Addresses            admin.Addresses
}

// program is one running ztunnel.
type program struct {
	cfg      Config
	registry *prometheus.Registry
	admin    *admin.Server
	worlds   mesh.Store
	certs    *svid.Manager
	stream   *configstream.Client
	agent    *handoff.Client
	proxy    *Proxy
}

// Run runs ztunnel until ctx ends and the connections have ended or the budget
// is spent. It returns an error if it could not start or a part of it broke.
func Run(ctx context.Context, cfg Config) error {
	tracing, err := telemetry.NewTracing(ctx, cfg.Trace)
	if err != nil {
		return err
	}
	controller, err := controllerTLS(cfg)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(cfg.ControllerAddress,
		grpc.WithTransportCredentials(credentials.NewTLS(controller)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return fmt.Errorf("controller address: %w", err)
	}
	p := &program{cfg: cfg, registry: prometheus.NewRegistry()}
	p.build(conn, controller, tracing)
	err = p.run(ctx)
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if ferr := tracing.Shutdown(flush); ferr != nil {
		cfg.Log.Warn("spans are lost", "error", ferr)
	}
	return errors.Join(err, conn.Close())
}

func controllerTLS(cfg Config) (*tls.Config, error) {
	id, err := identity.ForServiceAccount(cfg.TrustDomain, cfg.ControllerNamespace, controllerAccount)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	roots := identity.FileBundle(cfg.RootCert, func(err error) {
		cfg.Log.Warn("root certificates cannot be read", "error", err)
	})
	return identity.ControllerClientTLS(roots, id), nil
}

// build makes the parts and connects them; nothing runs yet.
func (p *program) build(conn *grpc.ClientConn, controller *tls.Config, tracing *telemetry.Tracing) {
	cfg := p.cfg
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.admin = admin.New("ztunnel", p.registry)
	configReady, podsReady := p.admin.Gate("config"), p.admin.Gate("pods")
	token := fileToken(cfg.Token)
	p.certs = svid.NewManager(svid.ManagerOptions{Issuer: svid.NewClient(conn, token), Log: cfg.Log, Registry: p.registry})
	synced := make(chan struct{})
	announce := sync.OnceFunc(func() {
		close(synced)
		configReady()
	})
	p.stream = configstream.NewClient(configstream.ClientOptions{
		Address: cfg.ControllerAddress, TLS: controller, Token: token, Node: cfg.Node,
		Role: configstream.RoleZTunnel, Version: cfg.Version, Worlds: &p.worlds,
		OnSynced: announce, Log: cfg.Log, Registry: p.registry,
	})
	p.agent = handoff.NewClient(filepath.Join(cfg.RunDir, socketName), cfg.Log)
	p.proxy = NewProxy(Options{
		TrustDomain: cfg.TrustDomain, Worlds: &p.worlds, Identities: p.certs, Sockets: agentSockets{p.agent},
		Tracer: tracing.Tracer(), Log: cfg.Log, Registry: p.registry,
		ConfigSynced: synced, OnPods: podsReady, OnDrain: p.admin.Drain, Drain: cfg.Drain,
	})
	p.admin.Dump("world", func() any { return summarize(p.worlds.Load()) })
	p.admin.Dump("pods", func() any { return p.proxy.Pods() })
	p.admin.Dump("certificates", func() any { return p.certs.Certificates() })
	p.admin.Dump("pools", func() any { return p.proxy.Pools() })
}

// run keeps everything going while connections drain.
func (p *program) run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	group.Go(func() error { return p.admin.Run(life, p.cfg.Addresses) })
	group.Go(func() error { return p.certs.Run(life) })
	group.Go(func() error { return p.stream.Run(life) })
	group.Go(func() error { return p.agent.Run(life, p.proxy) })
	group.Go(func() error {
		budget := p.cfg.ShutdownDrain
		select {
		case <-ctx.Done():
		case <-life.Done(): // something broke
			budget = 0
		}
		p.cfg.Log.Info("draining", "budget", budget.String())
		p.proxy.Shutdown(budget)
		end()
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// fileToken reads the token anew each time: kubelet replaces it.
func fileToken(path string) func() (string, error) {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(b)), nil
	}
}

// agentSockets are the sockets that the node agent hands over.
type agentSockets struct{ *handoff.Client }

// OriginalDst implements Sockets.
func (agentSockets) OriginalDst(c *net.TCPConn) (netip.AddrPort, error) {
	return handoff.OriginalDst(c)
}

// worldSummary is the mesh in the config dump: numbers, and what is bound to
// waypoints.
type worldSummary struct {
	Workloads int               `json:"workloads"`
	Tunnelled int               `json:"tunnelled"`
	Services  int               `json:"services"`
	Slices    int               `json:"endpointSlices"`
	Waypoints map[string]string `json:"waypoints"` // Service -> waypoints
}

func summarize(w *mesh.World) worldSummary {
	s := worldSummary{Waypoints: map[string]string{}}
	for wl := range w.Workloads() {
		s.Workloads++
		if wl.Tunnel == mesh.TunnelHBONE {
			s.Tunnelled++
		}
	}
	for svc := range w.Services() {
		s.Services++
		var names []string
		for _, b := range svc.Waypoints {
			name := b.Waypoint.String()
			if b.ClientNamespace != "" {
				name += " for clients of " + b.ClientNamespace
			}
			names = append(names, name)
		}
		if len(names) > 0 {
			s.Waypoints[svc.Key.String()] = strings.Join(names, ", ")
		}
	}
	for range w.Slices() {
		s.Slices++
	}
	return s
}
