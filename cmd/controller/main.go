// Command controller is the control plane of Towpath: it watches Kubernetes,
// streams configuration to the proxies and signs their certificates.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/controlplane"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
)

// image is where releases are published; version is set when one is built.
const image = "ghcr.io/towpath-mesh/towpath:"

var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg controlplane.Config
	var level string
	c := &cobra.Command{
		Use:           "controller",
		Short:         "The control plane of Towpath",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := telemetry.ParseLevel(level)
			if err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			cfg.Log = telemetry.NewLogger(os.Stderr, "controller", l)
			return controlplane.Run(c.Context(), cfg)
		},
	}
	host, _ := os.Hostname()
	f := c.Flags()
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "path of a kubeconfig (default: $KUBECONFIG, the pod's service account, ~/.kube/config)")
	f.StringVar(&cfg.Name, "name", host, "what tells this replica from the others: the pod's name")
	f.StringVar(&cfg.Namespace, "namespace", mesh.SystemNamespace, "namespace that Towpath is installed in")
	f.StringVar(&cfg.TrustDomain, "trust-domain", mesh.DefaultTrustDomain, "SPIFFE trust domain of the mesh")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&cfg.Listen, "listen", fmt.Sprintf(":%d", mesh.PortControl), "address of the config stream and the certificate service")
	addresses(c, &cfg.Admin)
	f.StringVar(&cfg.Image, "image", image+version, "container image of the proxies that are made")
	f.IntVar(&cfg.ProxyReplicas, "proxy-replicas", 1, "pods of each proxy that is made")
	f.DurationVar(&cfg.WaypointGrace, "waypoint-grace", 10*time.Minute, "how long a waypoint outlives the last route that wanted it")
	f.DurationVar(&cfg.CertificateTTL, "certificate-ttl", 6*time.Hour, "life of a workload's certificate")
	f.DurationVar(&cfg.RootLifetime, "root-lifetime", 10*365*24*time.Hour, "life of a root certificate that the controller makes")
	f.StringVar(&cfg.OTLPEndpoint, "otlp-endpoint", "", "OTLP/gRPC receiver for the proxies' traces (default: no traces)")
	f.Float64Var(&cfg.TraceSampling, "trace-sampling", 1, "share of new traces that the proxies sample, 0 to 1")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func addresses(c *cobra.Command, a *admin.Addresses) {
	f := c.Flags()
	f.StringVar(&a.Admin, "admin-address", fmt.Sprintf("127.0.0.1:%d", mesh.PortAdmin), "address of the admin server: loopback only; empty for none")
	f.StringVar(&a.Metrics, "metrics-address", fmt.Sprintf(":%d", mesh.PortMetrics), "address of the Prometheus metrics; empty for none")
	f.StringVar(&a.Ready, "ready-address", fmt.Sprintf(":%d", mesh.PortReady), "address of readiness and liveness; empty for none")
}
