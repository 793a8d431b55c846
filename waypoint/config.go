package waypoint

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/admin"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Config is what the program is told at its start.
type Config struct {
	// ControllerAddress is host:port of the controller.
	ControllerAddress string
	// SystemNamespace is the controller's namespace, which is part of its
	// identity.
	SystemNamespace string
	TrustDomain     string
	ClusterDomain   string
	// RootCert is the file of the roots that the controller is checked against,
	// Token the file of the token that authenticates to it. Both are read again
	// for each connection.
	RootCert, Token string
	// Gateway is the one that this process is a proxy of; its name is that of
	// the ServiceAccount too.
	Gateway mesh.ProxyKey

	OTLPEndpoint  string  // empty: no traces
	TraceSampling float64 // share of new traces, 0 to 1

	HBONEPort uint16
	Admin     admin.Addresses
	// Linger is how long new tunnels are taken after the process was told to
	// end: until all nodes have heard of it. Drain bounds what follows.
	Linger, Drain time.Duration

	PodName, PodUID, Node string // for telemetry
	LogLevel              string
	Version               string
}

// DefaultConfig returns the values that flags begin with.
func DefaultConfig() Config {
	return Config{
		ControllerAddress: fmt.Sprintf("towpath-controller.%s.svc:%d", mesh.SystemNamespace, mesh.PortControl),
		SystemNamespace:   mesh.SystemNamespace,
		TrustDomain:       mesh.DefaultTrustDomain,
		ClusterDomain:     "cluster.local",
		RootCert:          "/var/run/towpath/root/root-cert.pem",
		Token:             "/var/run/towpath/token/token",
		TraceSampling:     1,
		HBONEPort:         mesh.PortHBONE,
		Admin: admin.Addresses{
			Admin:   fmt.Sprintf("127.0.0.1:%d", mesh.PortAdmin),
			Metrics: fmt.Sprintf(":%d", mesh.PortMetrics),
			Ready:   fmt.Sprintf(":%d", mesh.PortReady),
		},
		Linger:   3 * time.Second,
		Drain:    20 * time.Second,
		PodName:  os.Getenv("POD_NAME"),
		PodUID:   os.Getenv("POD_UID"),
		Node:     os.Getenv("NODE_NAME"),
		LogLevel: "info",
	}
}

// identities are the SPIFFE IDs that follow from a Config.
type identities struct {
	trustDomain      spiffeid.TrustDomain
	self, controller spiffeid.ID
}

func (c Config) identities() (identities, error) {
	var ids identities
	var err error
	if c.Gateway.Namespace == "" || c.Gateway.Name == "" {
		return ids, errors.New("gateway: namespace and name are required")
	}
	if ids.trustDomain, err = spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		return ids, fmt.Errorf("trust domain: %w", err)
	}
	if ids.self, err = identity.ForServiceAccount(ids.trustDomain, c.Gateway.Namespace, c.Gateway.Name); err != nil {
		return ids, err
	}
	ids.controller, err = identity.ForServiceAccount(ids.trustDomain, c.SystemNamespace, "towpath-controller")
	return ids, err
}

// readToken is called for each connection: the kubelet renews the file.
func (c Config) readToken() (string, error) {
	b, err := os.ReadFile(c.Token)
	return strings.TrimSpace(string(b)), err
}
