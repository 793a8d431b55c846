package controlplane

import (
	"fmt"
	"sync"

	"github.com/towpath-mesh/towpath/identity/ca"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/registry"
)

// nodes knows the UIDs of the live Nodes: a token of a node that was deleted and
// made again under its name is worth nothing. The loop writes, the attestor
// reads.
type nodes struct {
	mu   sync.RWMutex
	uids map[string]string
}

func (n *nodes) set(name, uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uids == nil {
		n.uids = map[string]string{}
	}
	n.uids[name] = uid
}

func (n *nodes) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.uids, name)
}

func (n *nodes) uid(name string) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	uid, ok := n.uids[name]
	return uid, ok
}

// nodeOfPod finds the node of a caller whose token does not name it.
func nodeOfPod(pods *registry.Index, n *nodes) func(ca.Caller) (name, uid string, err error) {
	return func(c ca.Caller) (string, string, error) {
		pod, ok := pods.Pod(mesh.WorkloadID(c.PodUID))
		if !ok || pod.Node == "" {
			return "", "", fmt.Errorf("pod %s is not known yet", c.PodUID)
		}
		uid, ok := n.uid(pod.Node)
		if !ok {
			return "", "", fmt.Errorf("node %s is not known yet", pod.Node)
		}
		return pod.Node, uid, nil
	}
}
