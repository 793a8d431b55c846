package handoff

import (
	"context"
	"errors"
	"net"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Pod is an enrolled pod as ztunnel gets it.
type Pod struct {
	ID             mesh.WorkloadID
	Namespace      string
	Name           string
	ServiceAccount string

	// The pod's listening sockets, in its network namespace: one for each
	// address family that the namespace has. They are *net.TCPListener. Closing
	// one stops accepting here and now and closes nothing at the agent.
	Outbound  []net.Listener // port 15001
	Plaintext []net.Listener // port 15006
	HBONE     []net.Listener // port 15008
}

// Close closes all listeners of the pod.
func (p *Pod) Close() error {
	var errs []error
	for _, group := range [][]net.Listener{p.Outbound, p.Plaintext, p.HBONE} {
		for _, l := range group {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Handler is ztunnel's side of the protocol. Calls for one pod never overlap;
// calls for different pods do.
type Handler interface {
	// AddPod takes a pod in and returns when connections of it can be served:
	// its certificate is there. The handler owns the listeners from the moment
	// of the call; when it returns an error the Client closes them.
	//
	// A pod that is known already is added again, with new listeners, after
	// the agent restarted: the handler then accepts on the new ones, closes
	// the old ones and leaves the pod's connections alone. ctx ends when the
	// pod is removed or the connection to the agent is lost; the pod is then
	// added again on the next one.
	AddPod(ctx context.Context, p *Pod) error
	// RemovePod is called while the pod's network namespace still lives:
	// tunnels say goodbye now. It returns when that is done, soon (a second or
	// two; ctx says when at the latest), and has closed the pod's listeners.
	// The pod may be unknown, because its AddPod failed.
	RemovePod(ctx context.Context, id mesh.WorkloadID)
	// Synced is called once for each connection to an agent, when all pods that
	// the agent had have been added, or were given up on: ztunnel is ready.
	Synced()
	// Drain is called when a newer ztunnel has taken over: stop accepting,
	// finish what is open.
	Drain()
}
