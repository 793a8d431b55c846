// Command waypoint is the L7 proxy of a namespace, or of a Gateway.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/towpath-mesh/towpath/waypoint"
)

// version is set when a release is built.
var version = "dev"

func main() {
	cfg, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2) // flag has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := waypoint.Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "waypoint:", err)
		os.Exit(1)
	}
}

func parse(args []string) (waypoint.Config, error) {
	cfg := waypoint.DefaultConfig()
	cfg.Version = version
	port := uint(cfg.HBONEPort)
	f := flag.NewFlagSet("waypoint", flag.ContinueOnError)
	f.StringVar(&cfg.ControllerAddress, "controller-address", cfg.ControllerAddress, "host:port of the controller")
	f.StringVar(&cfg.SystemNamespace, "system-namespace", cfg.SystemNamespace, "namespace of the controller")
	f.StringVar(&cfg.TrustDomain, "trust-domain", cfg.TrustDomain, "SPIFFE trust domain of the mesh")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", cfg.ClusterDomain, "DNS domain of the cluster")
	f.StringVar(&cfg.RootCert, "root-cert", cfg.RootCert, "file with the root certificates of the controller")
	f.StringVar(&cfg.Token, "token", cfg.Token, "file with the service account token for the controller")
	f.StringVar(&cfg.Gateway.Namespace, "gateway-namespace", "", "namespace of the Gateway served (required)")
	f.StringVar(&cfg.Gateway.Name, "gateway-name", "", "name of the Gateway served (required)")
	f.StringVar(&cfg.OTLPEndpoint, "otlp-endpoint", "", "OTLP/gRPC receiver of traces, host:port or URL; empty for none")
	f.Float64Var(&cfg.TraceSampling, "trace-sampling", cfg.TraceSampling, "share of new traces that is sampled, 0 to 1")
	f.UintVar(&port, "hbone-port", port, "port for tunnels")
	f.StringVar(&cfg.Admin.Admin, "admin-address", cfg.Admin.Admin, "address of the admin server, loopback")
	f.StringVar(&cfg.Admin.Metrics, "metrics-address", cfg.Admin.Metrics, "address of the metrics")
	f.StringVar(&cfg.Admin.Ready, "ready-address", cfg.Admin.Ready, "address of the readiness probe")
	f.DurationVar(&cfg.Linger, "linger", cfg.Linger, "how long tunnels are taken after the signal to end")
	f.DurationVar(&cfg.Drain, "drain", cfg.Drain, "how long requests may go on after that")
	f.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	if port == 0 || port > 65535 {
		err := fmt.Errorf("hbone-port %d: want 1 to 65535", port)
		fmt.Fprintln(os.Stderr, err)
		return cfg, err
	}
	cfg.HBONEPort = uint16(port)
	return cfg, nil
}
