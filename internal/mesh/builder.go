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
		b.w.byAddress.set(a.Unmap(), wl)
	}
}

func (b *builder) removeWorkload(id WorkloadID) {
	old, ok := b.w.workloads.get(id)
	if !ok {
		return
	}
	b.w.workloads.remove(id)
	for _, a := range old.Addresses {
		// The address may belong to the next pod already.
		if cur, ok := b.w.byAddress.get(a.Unmap()); ok && cur.ID == id {
			b.w.byAddress.remove(a.Unmap())
		}
	}
}

func (b *builder) addService(s *Service) {
	b.w.services.set(s.Key, s)
	for _, a := range s.Addresses {
		b.w.byVIP.set(a.Unmap(), s)
	}
}

func (b *builder) removeService(key ServiceKey) {
	old, ok := b.w.services.get(key)
	if !ok {
		return
	}
	b.w.services.remove(key)
	for _, a := range old.Addresses {
		if cur, ok := b.w.byVIP.get(a.Unmap()); ok && cur.Key == key {
			b.w.byVIP.remove(a.Unmap())
		}
	}
}

func (b *builder) addSlice(s *EndpointSlice) {
	b.w.slices.set(s.Key, s)
	list, _ := b.w.ofService.get(s.Service)
	list = append(slices.Clone(list), s)
	slices.SortFunc(list, func(x, y *EndpointSlice) int { return compareSliceKeys(x.Key, y.Key) })
	b.w.ofService.set(s.Service, list)
	for _, e := range s.Endpoints {
		if e.Workload == "" {
			continue
		}
		keys, _ := b.w.ofWorkload.get(e.Workload)
		if !slices.Contains(keys, s.Key) {
			b.w.ofWorkload.set(e.Workload, append(slices.Clone(keys), s.Key))
		}
	}
}

func (b *builder) removeSlice(key SliceKey) {
	old, ok := b.w.slices.get(key)
	if !ok {
		return
	}
	b.w.slices.remove(key)
	list, _ := b.w.ofService.get(old.Service)
	list = slices.DeleteFunc(slices.Clone(list), func(s *EndpointSlice) bool { return s.Key == key })
	if len(list) == 0 {
		b.w.ofService.remove(old.Service)
	} else {
		b.w.ofService.set(old.Service, list)
	}
	for _, e := range old.Endpoints {
		b.unlink(e.Workload, key)
	}
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
