package controlplane

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/provision"
	"github.com/towpath-mesh/towpath/internal/registry"
)

// drainTime is how long a controller that ends waits for its streams to close.
const drainTime = 5 * time.Second

// Run is the controller, from start to the end of ctx. It returns nil after an
// orderly end, or what ended it: a config that is wrong, an address in use. A
// cluster that does not answer or a certificate authority that is not usable
// does not end it: it says so, is not ready, and keeps trying.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	c, err := newController(cfg)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.admin.Run(ctx, cfg.Admin) })
	group.Go(func() error { return c.cluster.cache.Start(ctx) })
	group.Go(func() error { return c.loop.run(ctx) })
	group.Go(func() error { return c.watcher.run(ctx, c.synced) })
	group.Go(func() error { return c.serve(ctx, listener) })
	return group.Wait()
}

// controller is the parts of one replica, wired.
type controller struct {
	cfg      Config
	cluster  *cluster
	registry *prometheus.Registry
	admin    *admin.Server
	attestor *attestor
	reviewer *reviewer
	stream   *configstream.Server
	loop     *loop
	watcher  *watcher
	writer   *writer
	events   events.EventBroadcaster

	trustDomain               spiffeid.TrustDomain
	synced                    func()
	gateAuthority, gateServer func()
}

func newController(cfg Config) (*controller, error) {
	logger := logr.FromSlogHandler(warnings{cfg.Log.Handler()})
	ctrllog.SetLogger(logger)
	klog.SetLogger(logger)
	kube, err := connect(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("--trust-domain: %w", err)
	}
	c := &controller{cfg: cfg, cluster: kube, trustDomain: td, registry: prometheus.NewRegistry()}
	c.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	c.admin = admin.New("controller", c.registry)
	c.events = events.NewBroadcaster(&events.EventSinkImpl{Interface: kube.set.EventsV1()})
	c.wire(newMetrics(c.registry))
	return c, nil
}

// wire makes the parts and lets them know each other: events flow from the
// watcher to the loop, and from it to the stream and the writer.
func (c *controller) wire(m *metrics) {
	index := registry.New(registry.Options{TrustDomain: c.trustDomain, ClusterDomain: c.cfg.ClusterDomain, SystemNamespace: c.cfg.Namespace})
	live := &nodes{}
	c.attestor = &attestor{pods: index, nodes: live, namespace: c.cfg.Namespace, trustDomain: c.trustDomain}
	c.reviewer = &reviewer{review: reviewWith(c.cluster.client), nodeOf: nodeOfPod(index, live), now: time.Now}
	told := &reports{index: index, cached: c.cluster.cache, client: c.cluster.client, now: time.Now}
	c.stream = configstream.NewServer(configstream.ServerOptions{
		Authenticate: streamAuthentication(c.reviewer, c.attestor), OnReport: told.take, Log: c.cfg.Log, Registry: c.registry,
	})
	c.writer = &writer{
		client: c.cluster.client, recorder: c.events.NewRecorder(c.cluster.scheme, mesh.ControllerName),
		provision: c.provisionOptions(), namespace: c.cfg.Namespace, grace: c.cfg.WaypointGrace,
		now: time.Now, metrics: m, log: c.cfg.Log,
	}
	changes, synced := make(chan event), make(chan struct{})
	gate := c.admin.Gate("first lists of all watches")
	c.gateAuthority = c.admin.Gate("certificate authority")
	c.gateServer = c.admin.Gate("server")
	c.synced = func() { close(synced); gate() }
	c.loop = &loop{
		events: changes, synced: synced, index: index, nodes: live, stream: c.stream,
		trustDomain: c.trustDomain, systemNamespace: c.cfg.Namespace, bundleVersion: c.cluster.bundleVersion,
		outcome: c.writer.take, touched: c.writer.touch, metrics: m, log: c.cfg.Log,
	}
	c.watcher = &watcher{cache: c.cluster.cache, present: c.cluster.presentGatewayKinds, out: changes, log: c.cfg.Log}
	c.admin.Dump("proxies", func() any { return c.stream.Proxies() })
	c.admin.Dump("outcome", func() any { return c.loop.dump() })
}

func (c *controller) provisionOptions() provision.Options {
	_, port, _ := net.SplitHostPort(c.cfg.Listen)
	return provision.Options{
		Image:             c.cfg.Image,
		ControllerAddress: fmt.Sprintf("%s.%s.svc.%s:%s", accountController, c.cfg.Namespace, c.cfg.ClusterDomain, port),
		TrustDomain:       c.cfg.TrustDomain, ClusterDomain: c.cfg.ClusterDomain,
		OTLPEndpoint: c.cfg.OTLPEndpoint, TraceSampling: c.cfg.TraceSampling,
		Replicas: int32(c.cfg.ProxyReplicas),
	}
}

// serve does what needs the certificate authority, once there is one: the gRPC
// server, and writing as the leader.
func (c *controller) serve(ctx context.Context, listener net.Listener) error {
	secret := &caSecret{
		client: c.cluster.client, namespace: c.cfg.Namespace, trustDomain: c.trustDomain,
		rootLife: c.cfg.RootLifetime, leafLife: c.cfg.CertificateTTL, log: c.cfg.Log,
	}
	authority, err := secret.untilLoaded(ctx)
	if err != nil {
		return ignoreDone(ctx, listener.Close())
	}
	own, err := identity.ForServiceAccount(c.trustDomain, c.cfg.Namespace, accountController)
	if err != nil {
		return fmt.Errorf("--namespace: %w", err)
	}
	source, err := authority.Self(own)
	if err != nil {
		return err
	}
	c.gateAuthority()
	c.writer.bundle = authority.Bundle
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return secret.follow(ctx, authority, c.writer.touchRoots) })
	group.Go(func() error { return c.serveGRPC(ctx, listener, authority, source) })
	group.Go(func() error { return c.compete(ctx) })
	return group.Wait()
}

func (c *controller) compete(ctx context.Context) error {
	if err := c.events.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("event recorder: %w", err)
	}
	defer c.events.Shutdown()
	e := &election{set: c.cluster.set, namespace: c.cfg.Namespace, name: c.cfg.Name, log: c.cfg.Log}
	return e.run(ctx, c.writer.lead)
}

// serveGRPC serves the config stream, the node reports and the certificates. The
// config stream itself holds its clients back until the loop has built.
func (c *controller) serveGRPC(ctx context.Context, listener net.Listener, authority *ca.Authority, own identity.Source) error {
	server := grpc.NewServer(append(configstream.GRPCOptions(), grpc.Creds(credentials.NewTLS(identity.ControllerServerTLS(own))))...)
	c.stream.Register(server)
	ca.NewService(ca.ServiceOptions{
		Signer: authority, Authenticator: c.reviewer, Attestor: c.attestor, Log: c.cfg.Log, Registry: c.registry,
	}).Register(server)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		c.gateServer()
		c.cfg.Log.InfoContext(ctx, "serving", "address", listener.Addr().String())
		return server.Serve(listener)
	})
	group.Go(func() error {
		<-ctx.Done()
		c.admin.Drain()
		force := time.AfterFunc(drainTime, server.Stop)
		defer force.Stop()
		server.GracefulStop()
		c.stream.Wait()
		return nil
	})
	return group.Wait()
}

// ignoreDone returns err unless the process is ending anyway.
func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
