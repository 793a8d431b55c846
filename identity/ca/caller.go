package ca

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Refusals that Authenticators and Attestors return, wrapped. Any other error
// of theirs counts as their own failure: the proxy is told to try again.
var (
	// ErrUnauthenticated: the token proves nothing, or not enough.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrDenied: the caller may not have the identity it asks for.
	ErrDenied = errors.New("denied")
	// ErrUnknownPod: no such pod, or not yet known to this controller.
	ErrUnknownPod = errors.New("no such pod")
)

// Caller is who presented a token. All of it comes from the token as the
// cluster has verified it, nothing from the request.
type Caller struct {
	Namespace, ServiceAccount string
	PodName, PodUID           string
	NodeName, NodeUID         string
}

// LogValue implements slog.LogValuer.
func (c Caller) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("namespace", c.Namespace),
		slog.String("service_account", c.ServiceAccount),
		slog.String("pod", c.PodName),
		slog.String("pod_uid", c.PodUID),
		slog.String("node", c.NodeName),
	)
}

// complete reports whether the token was bound to a pod on a node. Tokens that
// are not can be used from anywhere and for ever.
func (c Caller) complete() bool {
	return c.Namespace != "" && c.ServiceAccount != "" && c.PodUID != "" && c.NodeName != "" && c.NodeUID != ""
}

// An Authenticator turns a bearer token into a Caller. It must check that the
// token was made for Towpath's own audience, by asking for that audience and by
// finding it in the answer. Errors: ErrUnauthenticated, wrapped; others mean
// that it could not tell.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Caller, error)
}

// An Attestor knows pods. It returns the identity of the pod with the given
// UID if caller may hold it: the node proxy for pods of its own node (by node
// name and node UID) that are pending or running, no mirror pods, not on the
// host's network and enrolled by the same rule that the data plane follows; a
// waypoint or gateway for itself only. Errors: ErrDenied or ErrUnknownPod,
// wrapped; others mean that it could not tell.
type Attestor interface {
	Attest(ctx context.Context, caller Caller, podUID string) (spiffeid.ID, error)
}
