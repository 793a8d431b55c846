package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/registry"
)

// Service accounts of the programs of one installation, in its namespace.
const (
	accountController = "towpath-controller"
	accountNodeAgent  = "towpath-node-agent"
	accountZTunnel    = "towpath-ztunnel"
)

// attestor decides which pod's identity a caller may hold, and what a caller may
// see, from what the registry knows of pods.
type attestor struct {
	pods        *registry.Index
	nodes       *nodes
	namespace   string // of the installation
	trustDomain spiffeid.TrustDomain
}

var _ ca.Attestor = (*attestor)(nil)

// Attest lets ztunnel ask for the enrolled pods of its own node, and a waypoint
// or gateway for its own pod.
func (a *attestor) Attest(_ context.Context, c ca.Caller, podUID string) (spiffeid.ID, error) {
	if err := a.checkNode(c); err != nil {
		return spiffeid.ID{}, err
	}
	pod, ok := a.pods.Pod(mesh.WorkloadID(podUID))
	if !ok {
		return spiffeid.ID{}, fmt.Errorf("%w: %s", ca.ErrUnknownPod, podUID)
	}
	err := checkPod(c, pod)
	switch {
	case err != nil:
	case a.isZTunnel(c):
		if !pod.Enrolled {
			err = errors.New("the pod is not in the mesh")
		}
	default:
		err = checkOwn(c, pod)
	}
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ca.ErrDenied, err)
	}
	return identity.ForServiceAccount(a.trustDomain, pod.Namespace, pod.ServiceAccount)
}

// checkNode compares the node of the token with the live one of that name.
func (a *attestor) checkNode(c ca.Caller) error {
	uid, ok := a.nodes.uid(c.NodeName)
	if !ok {
		return fmt.Errorf("node %s is not known yet", c.NodeName)
	}
	if uid != c.NodeUID {
		return fmt.Errorf("%w: node %s has been replaced since the token was made", ca.ErrDenied, c.NodeName)
	}
	return nil
}

// checkPod is what must be true of a pod whoever asks.
func checkPod(c ca.Caller, pod registry.PodInfo) error {
	switch {
	case pod.Node != c.NodeName:
		return fmt.Errorf("the pod runs on node %q, the caller on %q", pod.Node, c.NodeName)
	case pod.Phase != corev1.PodPending && pod.Phase != corev1.PodRunning:
		return fmt.Errorf("the pod is %s", pod.Phase)
	case pod.Mirror:
		return errors.New("a mirror pod has no identity: a file on the node is enough to make one")
	case pod.HostNetwork:
		return errors.New("a pod on the host's network has no identity")
	}
	return nil
}

// checkOwn is what must be true when a pod asks for itself.
func checkOwn(c ca.Caller, pod registry.PodInfo) error {
	switch {
	case string(pod.ID) != c.PodUID:
		return errors.New("only ztunnel may ask for other pods than its own")
	case pod.Namespace != c.Namespace || pod.ServiceAccount != c.ServiceAccount:
		return errors.New("the token is not of the pod's service account")
	case pod.Gateway.IsZero():
		return errors.New("the pod is no proxy: its identity is held by ztunnel")
	}
	return nil
}

func (a *attestor) isZTunnel(c ca.Caller) bool {
	return c.Namespace == a.namespace && c.ServiceAccount == accountZTunnel
}

// peer tells what a caller is on the config stream.
func (a *attestor) peer(c ca.Caller) (configstream.Peer, error) {
	p := configstream.Peer{Namespace: c.Namespace, ServiceAccount: c.ServiceAccount, Pod: c.PodName, Node: c.NodeName}
	switch {
	case a.isZTunnel(c):
		p.Role = configstream.RoleZTunnel
		return p, nil
	case c.Namespace == a.namespace && c.ServiceAccount == accountNodeAgent:
		p.Role = configstream.RoleNodeAgent
		return p, nil
	}
	pod, ok := a.pods.Pod(mesh.WorkloadID(c.PodUID))
	if !ok {
		return configstream.Peer{}, status.Errorf(codes.Unavailable, "pod %s is not known yet", c.PodUID)
	}
	if err := checkOwn(c, pod); err != nil {
		return configstream.Peer{}, status.Error(codes.PermissionDenied, err.Error())
	}
	p.Role, p.Proxy = configstream.RoleProxy, pod.Gateway
	return p, nil
}

// streamAuthentication is authentication in the form that the config stream
// wants.
func streamAuthentication(who ca.Authenticator, a *attestor) configstream.AuthenticateFunc {
	return func(ctx context.Context, token string) (configstream.Peer, error) {
		c, err := who.Authenticate(ctx, token)
		switch {
		case errors.Is(err, ca.ErrUnauthenticated):
			return configstream.Peer{}, err
		case err != nil:
			return configstream.Peer{}, status.Error(codes.Unavailable, err.Error())
		}
		return a.peer(c)
	}
}
