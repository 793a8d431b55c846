package configstream

import (
	"context"
	"errors"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Role is the kind of program at the far end of a stream. It decides what the
// server shows it.
type Role uint8

const (
	// RoleNodeAgent sees the workloads of its own node. The zero value, so that
	// a forgotten role shows the least.
	RoleNodeAgent Role = iota
	// RoleZTunnel sees all workloads, services and endpoint slices.
	RoleZTunnel
	// RoleProxy sees what a ztunnel does, and the routing tables of its own
	// Gateway.
	RoleProxy
)

func (r Role) String() string {
	switch r {
	case RoleNodeAgent:
		return "node-agent"
	case RoleZTunnel:
		return "ztunnel"
	case RoleProxy:
		return "proxy"
	}
	return "unknown"
}

// MarshalText spells the role in dumps as String does.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Peer is who an authenticated client is. It comes from the client's
// credentials alone, never from what the client says of itself.
type Peer struct {
	Role           Role
	Namespace      string
	ServiceAccount string
	Pod            string
	// Node the client runs on. Required for RoleNodeAgent.
	Node string
	// Proxy is the Gateway that a RoleProxy serves; required there.
	Proxy mesh.ProxyKey
}

// check refuses a Peer whose role lacks what its view is made from.
func (p Peer) check() error {
	switch {
	case p.Role > RoleProxy:
		return errors.New("unknown role")
	case p.Role == RoleNodeAgent && p.Node == "":
		return errors.New("a node agent without a node")
	case p.Role == RoleProxy && p.Proxy.IsZero():
		return errors.New("a proxy without a Gateway")
	}
	return nil
}

// PodReport is what a node agent has found or done with one pod.
type PodReport struct {
	ID mesh.WorkloadID
	// Enrolled says that the pod's traffic is captured and that it can be
	// reached by HBONE.
	Enrolled bool
	// Reason is one CamelCase word, Message a sentence for people; both may be
	// empty.
	Reason, Message string
}

// AuthenticateFunc tells whose token it is. An error that carries a gRPC status
// (for "try again later", say) reaches the client as it is; any other one as
// Unauthenticated.
type AuthenticateFunc func(ctx context.Context, token string) (Peer, error)
