// Command ztunnel carries the TCP connections of a node's pods through the
// mesh. It needs no privilege: the node agent gives it the sockets.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/ztunnel"
)

// version is set when a release is built.
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
	var trustDomain, logLevel string
	cfg := ztunnel.Config{Version: version, Pod: os.Getenv("POD_NAME")}
	c := &cobra.Command{
		Use: "ztunnel", Short: "Carry the TCP connections of a node's pods through the mesh.",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			level, err := telemetry.ParseLevel(logLevel)
			if err != nil {
				return err
			}
			if cfg.TrustDomain, err = spiffeid.TrustDomainFromString(trustDomain); err != nil {
				return fmt.Errorf("trust domain: %w", err)
			}
			cfg.Log = telemetry.NewLogger(os.Stdout, "ztunnel", level)
			cfg.Trace.ServiceName, cfg.Trace.ServiceNamespace = "ztunnel", cfg.ControllerNamespace
			cfg.Trace.InstanceID, cfg.Trace.PodName, cfg.Trace.Node = cfg.Pod, cfg.Pod, cfg.Node
			return ztunnel.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.ControllerAddress, "controller-address", "towpath-controller.towpath-system.svc:15012", "host:port of the controller")
	f.StringVar(&cfg.ControllerNamespace, "controller-namespace", mesh.SystemNamespace, "namespace of the controller, part of its identity")
	f.StringVar(&trustDomain, "trust-domain", mesh.DefaultTrustDomain, "SPIFFE trust domain of the mesh")
	f.StringVar(&cfg.RootCert, "root-cert", "/var/run/towpath/root/root-cert.pem", "file with the root certificates that the controller's certificate leads to")
	f.StringVar(&cfg.Token, "token", "/var/run/towpath/token/token", "file with the service account token to show the controller")
	f.StringVar(&cfg.RunDir, "run-dir", "/run/towpath", "directory of the node agent's socket")
	f.StringVar(&cfg.Node, "node-name", os.Getenv("NODE_NAME"), "name of this node")
	f.DurationVar(&cfg.Drain, "drain", 10*time.Minute, "how long connections go on after their pod was removed or a newer ztunnel has taken over")
	f.DurationVar(&cfg.ShutdownDrain, "shutdown-drain", 5*time.Minute, "how long connections go on after SIGTERM; keep it below the pod's grace period")
	f.StringVar(&cfg.Trace.Endpoint, "otlp-endpoint", "", "OTLP/gRPC receiver of traces: host:port or URL; empty for none")
	f.BoolVar(&cfg.Trace.Insecure, "otlp-insecure", true, "speak to a host:port receiver without TLS")
	f.Float64Var(&cfg.Trace.Sampling, "trace-sampling", 0.01, "share of connections that begin a trace, 0 to 1")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&cfg.Addresses.Admin, "admin-address", fmt.Sprintf("127.0.0.1:%d", mesh.PortAdmin), "address of config dump and pprof")
	f.StringVar(&cfg.Addresses.Metrics, "metrics-address", fmt.Sprintf(":%d", mesh.PortMetrics), "address of the Prometheus metrics")
	f.StringVar(&cfg.Addresses.Ready, "ready-address", fmt.Sprintf(":%d", mesh.PortReady), "address of the probes")
	return c
}
