// Command node-agent takes the pods of its node into the mesh and lets them go.
// With the verb "cleanup" it removes what it has put on the node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/ztunnel/agent"
)

// version is set when a release is built.
var version = "dev"

// The agent shares the node's ports with kubelet and others; its own stand
// apart from those of Towpath's other programs and of the ambient family.
const (
	portAdmin   = 15100
	portMetrics = 15120
	portReady   = 15121
)

// ztunnelUID is the user that the install manifests run ztunnel as.
const ztunnelUID = 65532

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
	cfg := agent.Config{Version: version}
	var logLevel string
	c := &cobra.Command{
		Use: "node-agent", Short: "Take the pods of this node into the mesh.",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			level, err := telemetry.ParseLevel(logLevel)
			if err != nil {
				return err
			}
			return agent.Run(c.Context(), cfg, telemetry.NewLogger(os.Stdout, "node-agent", level))
		},
	}
	nodeFlags(c, &cfg, &logLevel)
	runFlags(c, &cfg)
	c.AddCommand(cleanupCommand(&cfg, &logLevel))
	return c
}

func cleanupCommand(cfg *agent.Config, logLevel *string) *cobra.Command {
	var stay bool
	c := &cobra.Command{
		Use: "cleanup", Short: "Remove plugin, rules and sockets from this node; the agent must not run.",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			level, err := telemetry.ParseLevel(*logLevel)
			if err != nil {
				return err
			}
			log := telemetry.NewLogger(os.Stdout, "node-agent", level)
			if stay {
				return agent.CleanupAndStay(c.Context(), *cfg, log)
			}
			return agent.Cleanup(*cfg, log)
		},
	}
	c.Flags().BoolVar(&stay, "stay", false, "then say so by readiness and stay, until told to end")
	return c
}

// nodeFlags say what the node looks like; both verbs need them.
func nodeFlags(c *cobra.Command, cfg *agent.Config, logLevel *string) {
	f := c.PersistentFlags()
	f.StringVar(&cfg.HostProc, "host-proc", "/host/proc", "the host's proc file system, mounted writable")
	f.StringVar(&cfg.RunDir, "run-dir", "/run/towpath", "directory of the host for sockets, mounted at the same path")
	f.StringVar(&cfg.CNIConfDir, "cni-conf-dir", "/host/cni/net.d", "the host's CNI configuration; empty to leave CNI alone")
	f.StringVar(&cfg.CNIBinDir, "cni-bin-dir", "/host/cni/bin", "the host's CNI plugins")
	f.StringVar(&cfg.Addresses.Ready, "ready-address", fmt.Sprintf(":%d", portReady), "address of the probes")
	f.StringVar(logLevel, "log-level", "info", "debug, info, warn or error")
}

func runFlags(c *cobra.Command, cfg *agent.Config) {
	f := c.Flags()
	f.StringVar(&cfg.NodeName, "node-name", os.Getenv("NODE_NAME"), "name of this node")
	f.StringVar(&cfg.ControllerAddress, "controller-address", "towpath-controller.towpath-system.svc:15012", "host:port of the controller")
	f.StringVar(&cfg.SystemNamespace, "controller-namespace", mesh.SystemNamespace, "namespace of the controller, part of its identity")
	f.StringVar(&cfg.TrustDomain, "trust-domain", mesh.DefaultTrustDomain, "SPIFFE trust domain of the mesh")
	f.StringVar(&cfg.RootCert, "root-cert", "/var/run/towpath/root/root-cert.pem", "file with the root certificates that the controller's certificate leads to")
	f.StringVar(&cfg.Token, "token", "/var/run/towpath/token/token", "file with the service account token to show the controller")
	f.StringVar(&cfg.CNIBinary, "cni-binary", "/usr/local/bin/towpath-cni", "the CNI plugin to install")
	f.StringVar(&cfg.HostRunDir, "host-run-dir", "", "run-dir as the host names it, if that is another path")
	f.StringSliceVar(&cfg.ExcludeNamespaces, "exclude-namespaces", []string{"kube-system", mesh.SystemNamespace}, "namespaces whose pods never wait for the mesh")
	f.Uint32Var(&cfg.ZTunnelUID, "ztunnel-uid", ztunnelUID, "user that ztunnel runs as")
	f.DurationVar(&cfg.Release.Drain, "drain", 10*time.Second, "how long tunnels are still accepted for a running pod that is let go")
	f.DurationVar(&cfg.Release.Linger, "linger", 11*time.Minute, "how long captured connections of such a pod may go on; longer than ztunnel's --drain")
	f.StringVar(&cfg.Addresses.Admin, "admin-address", fmt.Sprintf("127.0.0.1:%d", portAdmin), "address of config dump and pprof")
	f.StringVar(&cfg.Addresses.Metrics, "metrics-address", fmt.Sprintf(":%d", portMetrics), "address of the Prometheus metrics")
}
