package mesh

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// WorkloadID names one incarnation of a workload: the UID of its Pod. An
// address that another pod takes over comes with another WorkloadID.
type WorkloadID string

// Tunnel says how a workload is reached.
type Tunnel uint8

const (
	// TunnelNone: plain TCP to the workload's own port. The zero value.
	TunnelNone Tunnel = iota
	// TunnelHBONE: HTTP/2 CONNECT over mutual TLS to port 15008 of the
	// workload's address.
	TunnelHBONE
)

func (t Tunnel) String() string {
	if t == TunnelHBONE {
		return "HBONE"
	}
	return "TCP"
}

// Workload is one pod as the data plane sees it.
type Workload struct {
	ID             WorkloadID
	Namespace      string
	Name           string
	ServiceAccount string
	// Identity is spiffe://<trust domain>/ns/<Namespace>/sa/<ServiceAccount>;
	// the zero ID for a workload that has none (a host-network pod).
	Identity spiffeid.ID
	Node     string
	// Addresses are the pod's own; empty until the pod has one. A host-network
	// pod carries none: its node's address says nothing about who it is.
	Addresses   []netip.Addr
	HostNetwork bool
	// Enrolled says that the user wants the workload in the mesh. The node
	// agent acts on it.
	Enrolled bool
	// Tunnel says that peers can reach it by HBONE *now*: the node agent has
	// reported its listeners, or the program speaks HBONE itself (a waypoint).
	// Not the same as Enrolled while a running pod is being taken in.
	Tunnel Tunnel
	// Gateway is the Gateway this pod is a proxy of, the zero key otherwise.
	Gateway ProxyKey
	// Terminating is set once the pod is being deleted.
	Terminating bool

	// For telemetry only: the controller that made the pod ("Deployment",
	// "web"), and the app and version labels.
	OwnerKind, OwnerName string
	App, Version         string
}

// ProxyKey names a Gateway object, and so the proxies that serve it: a
// waypoint or a north-south gateway.
type ProxyKey struct{ Namespace, Name string }

func (k ProxyKey) String() string { return k.Namespace + "/" + k.Name }

// IsZero reports whether the key names nothing.
func (k ProxyKey) IsZero() bool { return k == ProxyKey{} }
