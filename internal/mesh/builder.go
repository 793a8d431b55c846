package mesh

import (
	"cmp"
	"slices"
)

// builder edits the tables of a World that nobody else has seen yet. Apply is
// its only user.
type builder struct{ w *World }

func (b *builder) addWorkload(wl *Workload) {
	b.w.workloads.set(wl.ID, wl)
	for _, a := range wl.Addresses {
		b.w.byAddress.claim(a, wl, betterWorkload)
	}
}

func (b *builder) removeWorkload(id WorkloadID) {
	old, ok := b.w.workloads.get(id)
	if !ok {
		return
	}
	b.w.workloads.remove(id)
	for _, a := range old.Addresses {
		b.w.byAddress.release(a, old, betterWorkload)
	}
}

func (b *builder) addService(s *Service) {
	b.w.services.set(s.Key, s)
	for _, a := range s.Addresses {
		b.w.byVIP.claim(a, s, betterService)
	}
}

func (b *builder) removeService(key ServiceKey) {
	old, ok := b.w.services.get(key)
	if !ok {
		return
	}
	b.w.services.remove(key)
	for _, a := range old.Addresses {
		b.w.byVIP.release(a, old, betterService)
	}
}

// setSlice replaces a slice. Most of its endpoints stay from one version to the
// next, and what stays is not touched.
func (b *builder) setSlice(s *EndpointSlice) {
	old, _ := b.w.slices.get(s.Key)
	b.w.slices.set(s.Key, s)
	if old != nil && old.Service != s.Service {
		b.leaveService(old)
	}
	list, _ := b.w.ofService.get(s.Service)
	i, found := slices.BinarySearchFunc(list, s.Key, func(x *EndpointSlice, k SliceKey) int { return compareSliceKeys(x.Key, k) })
	list = slices.Clone(list)
	if found {
		list[i] = s
	} else {
		list = slices.Insert(list, i, s)
	}
	b.w.ofService.set(s.Service, list)

	before, after := workloadsOf(old), workloadsOf(s)
	for id := range before {
		if !after[id] {
			b.unlink(id, s.Key)
		}
	}
	for id := range after {
		if !before[id] {
			keys, _ := b.w.ofWorkload.get(id)
			b.w.ofWorkload.set(id, append(slices.Clone(keys), s.Key))
		}
	}
}

func (b *builder) removeSlice(key SliceKey) {
	old, ok := b.w.slices.get(key)
	if !ok {
		return
	}
	b.w.slices.remove(key)
	b.leaveService(old)
	for id := range workloadsOf(old) {
		b.unlink(id, key)
	}
}

func (b *builder) leaveService(s *EndpointSlice) {
	list, _ := b.w.ofService.get(s.Service)
	list = slices.DeleteFunc(slices.Clone(list), func(o *EndpointSlice) bool { return o.Key == s.Key })
	if len(list) == 0 {
		b.w.ofService.remove(s.Service)
		return
	}
	b.w.ofService.set(s.Service, list)
}

// workloadsOf returns the workloads behind a slice; a nil slice has none.
func workloadsOf(s *EndpointSlice) map[WorkloadID]bool {
	if s == nil {
		return nil
	}
	ids := make(map[WorkloadID]bool, len(s.Endpoints))
	for _, e := range s.Endpoints {
		if e.Workload != "" {
			ids[e.Workload] = true
		}
	}
	return ids
}

func (b *builder) unlink(id WorkloadID, key SliceKey) {
	keys, ok := b.w.ofWorkload.get(id)
	if !ok {
		return
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k SliceKey) bool { return k == key })
	if len(keys) == 0 {
		b.w.ofWorkload.remove(id)
		return
	}
	b.w.ofWorkload.set(id, keys)
}

func compareServiceKeys(a, b ServiceKey) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareSliceKeys(a, b SliceKey) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
