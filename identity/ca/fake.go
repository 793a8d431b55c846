package ca

import (
	"context"
	"fmt"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FakeCluster is an Authenticator and Attestor for tests: tokens and pods are
// what the test has put in. A pod may be asked for by callers on its own node.
// It is safe for concurrent use; the zero value is an empty cluster.
type FakeCluster struct {
	mu      sync.Mutex
	callers map[string]Caller
	pods    map[string]fakePod
	down    error
}

type fakePod struct {
	id   spiffeid.ID
	node string
}

// SetCaller makes token good for c.
func (f *FakeCluster) SetCaller(token string, c Caller) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.callers == nil {
		f.callers = make(map[string]Caller)
	}
	f.callers[token] = c
}

// SetPod adds a pod with an identity on a node.
func (f *FakeCluster) SetPod(uid string, id spiffeid.ID, node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pods == nil {
		f.pods = make(map[string]fakePod)
	}
	f.pods[uid] = fakePod{id: id, node: node}
}

// RemovePod removes a pod.
func (f *FakeCluster) RemovePod(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, uid)
}

// SetDown makes every question fail with err, as if the cluster's API were
// away; nil ends that.
func (f *FakeCluster) SetDown(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// Authenticate implements Authenticator.
func (f *FakeCluster) Authenticate(_ context.Context, token string) (Caller, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return Caller{}, f.down
	}
	c, ok := f.callers[token]
	if !ok {
		return Caller{}, fmt.Errorf("%w: unknown token", ErrUnauthenticated)
	}
	return c, nil
}

// Attest implements Attestor.
func (f *FakeCluster) Attest(_ context.Context, c Caller, podUID string) (spiffeid.ID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return spiffeid.ID{}, f.down
	}
	p, ok := f.pods[podUID]
	switch {
	case !ok:
		return spiffeid.ID{}, fmt.Errorf("%w: %s", ErrUnknownPod, podUID)
	case p.node != c.NodeName:
		return spiffeid.ID{}, fmt.Errorf("%w: pod %s is on node %s, the caller on %s", ErrDenied, podUID, p.node, c.NodeName)
	}
	return p.id, nil
}
