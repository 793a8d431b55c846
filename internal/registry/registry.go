package registry

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
)

// Options are the constants of an installation.
type Options struct {
	// TrustDomain of the workloads' identities.
	TrustDomain spiffeid.TrustDomain
	// ClusterDomain is the DNS suffix of Services, "cluster.local" when empty.
	ClusterDomain string
	// SystemNamespace is where Towpath runs, mesh.SystemNamespace when empty.
	SystemNamespace string
}

// Index is what is known of the cluster. Its methods may be called from any
// goroutine; those that change it return what the mesh must be told, and must be
// published in the order in which they were made: let one goroutine make them.
type Index struct {
	options Options

	mu         sync.RWMutex
	namespaces map[string]*namespace
	pods       map[types.NamespacedName]*pod
	byUID      map[mesh.WorkloadID]*pod
	byNode     map[string]map[mesh.WorkloadID]*pod
	services   map[mesh.ServiceKey]*service
	slices     map[mesh.SliceKey]*mesh.EndpointSlice
	bindings   map[mesh.ServiceKey]mesh.Bindings
	problems   map[objectRef]problem.Problem
}

// objectRef names an object with a problem. No object has more than one.
type objectRef struct{ kind, namespace, name string }

// New returns an empty Index.
func New(o Options) *Index {
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if o.SystemNamespace == "" {
		o.SystemNamespace = mesh.SystemNamespace
	}
	return &Index{
		options:    o,
		namespaces: map[string]*namespace{},
		pods:       map[types.NamespacedName]*pod{},
		byUID:      map[mesh.WorkloadID]*pod{},
		byNode:     map[string]map[mesh.WorkloadID]*pod{},
		services:   map[mesh.ServiceKey]*service{},
		slices:     map[mesh.SliceKey]*mesh.EndpointSlice{},
		bindings:   map[mesh.ServiceKey]mesh.Bindings{},
		problems:   map[objectRef]problem.Problem{},
	}
}

// SetPod takes in the newest state of a Pod. The object is not kept.
func (x *Index) SetPod(p *corev1.Pod) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	var u mesh.Update
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	if old, ok := x.pods[key]; ok && old.info.ID != mesh.WorkloadID(p.UID) {
		x.dropPod(key, &u) // deleted and made again between two looks
	}
	x.keepPod(key, p, &u)
	return u
}

// RemovePod forgets a Pod.
func (x *Index) RemovePod(namespace, name string) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	var u mesh.Update
	x.dropPod(types.NamespacedName{Namespace: namespace, Name: name}, &u)
	return u
}

// SetNamespace takes in the newest state of a Namespace. A change of its label
// changes all its pods.
func (x *Index) SetNamespace(n *corev1.Namespace) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.relabel(n.Name, n.Labels[mesh.LabelMesh])
}

// RemoveNamespace forgets a Namespace. Its pods, should there still be some, are
// then not enrolled.
func (x *Index) RemoveNamespace(name string) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.relabel(name, "")
	if ns := x.namespaces[name]; ns != nil && len(ns.pods) == 0 {
		delete(x.namespaces, name)
	}
	return u
}

// SetService takes in the newest state of a Service.
func (x *Index) SetService(s *corev1.Service) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := mesh.ServiceKey{Namespace: s.Namespace, Name: s.Name}
	base, ok := serviceOf(s, x.options.ClusterDomain)
	if !ok {
		return x.dropService(key)
	}
	entry := x.services[key]
	if entry == nil {
		entry = &service{}
		x.services[key] = entry
	}
	entry.base = base
	return x.emitService(key)
}

// RemoveService forgets a Service.
func (x *Index) RemoveService(namespace, name string) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.dropService(mesh.ServiceKey{Namespace: namespace, Name: name})
}

// SetSlice takes in the newest state of an EndpointSlice.
func (x *Index) SetSlice(s *discoveryv1.EndpointSlice) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := mesh.SliceKey{Namespace: s.Namespace, Name: s.Name}
	next, ok := sliceOf(s)
	if !ok {
		return x.dropSlice(key)
	}
	if reflect.DeepEqual(x.slices[key], next) {
		return mesh.Update{}
	}
	x.slices[key] = next
	return mesh.Update{Slices: []*mesh.EndpointSlice{next}}
}

// RemoveSlice forgets an EndpointSlice.
func (x *Index) RemoveSlice(namespace, name string) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.dropSlice(mesh.SliceKey{Namespace: namespace, Name: name})
}

// SetBindings replaces everything that routes add to Services. Bindings of a
// Service that does not exist wait for it. The map and what it holds belong to
// the Index from now on.
func (x *Index) SetBindings(b map[mesh.ServiceKey]mesh.Bindings) mesh.Update {
	x.mu.Lock()
	defer x.mu.Unlock()
	touched := slices.Collect(maps.Keys(x.bindings))
	for key := range b {
		if _, ok := x.bindings[key]; !ok {
			touched = append(touched, key)
		}
	}
	slices.SortFunc(touched, func(a, b mesh.ServiceKey) int { return strings.Compare(a.String(), b.String()) })
	x.bindings = b
	var u mesh.Update
	for _, key := range touched {
		u.Services = append(u.Services, x.emitService(key).Services...)
	}
	return u
}

// Problems returns what is wrong with the labels of Namespaces and Pods now,
// sorted.
func (x *Index) Problems() []problem.Problem {
	x.mu.RLock()
	defer x.mu.RUnlock()
	list := slices.Collect(maps.Values(x.problems))
	problem.Sort(list)
	return list
}

// note records or clears the problem of an object.
func (x *Index) note(ref objectRef, message string) {
	if message == "" {
		delete(x.problems, ref)
		return
	}
	x.problems[ref] = problem.Problem{
		Kind: ref.kind, Namespace: ref.namespace, Name: ref.name,
		Field: "metadata.labels[" + mesh.LabelMesh + "]", Reason: "InvalidLabel", Message: message,
	}
}
