package registry

import (
	"cmp"
	"slices"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Pod returns the pod with that UID, finished ones included.
func (x *Index) Pod(id mesh.WorkloadID) (PodInfo, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, ok := x.byUID[id]
	if !ok {
		return PodInfo{}, false
	}
	return p.info, true
}

// PodsOn returns the pods of a node, sorted by namespace and name.
func (x *Index) PodsOn(node string) []PodInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []PodInfo
	for _, p := range x.byNode[node] {
		out = append(out, p.info)
	}
	sortPods(out)
	return out
}

// EnrolledPods returns the pods that are to be in the mesh, sorted by namespace
// and name. It looks at every pod: it is for people, not for the data path.
func (x *Index) EnrolledPods() []PodInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []PodInfo
	for _, p := range x.byUID {
		if p.info.Enrolled {
			out = append(out, p.info)
		}
	}
	sortPods(out)
	return out
}

// EnrolledNamespaces returns the names of the namespaces in the mesh, sorted.
func (x *Index) EnrolledNamespaces() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []string
	for name, ns := range x.namespaces {
		if ns.enrolled {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Service returns a Service as it was last told to the mesh. The value is shared
// and must not be changed.
func (x *Index) Service(key mesh.ServiceKey) (*mesh.Service, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	s, ok := x.services[key]
	if !ok {
		return nil, false
	}
	return s.told, true
}

func sortPods(list []PodInfo) {
	slices.SortFunc(list, func(a, b PodInfo) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}
