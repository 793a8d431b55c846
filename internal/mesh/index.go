package mesh

import (
	"net/netip"
	"slices"
)

// addressIndex tells who owns an address. For a moment two may claim one: an
// address goes to the next pod before the last one is known to be gone. The
// better claim wins then, whichever came first, so that a late word about the
// old owner takes nothing from the new one.
type addressIndex[V comparable] struct {
	owner table[netip.Addr, V]
	// rivals are all claims to an address that has several.
	rivals table[netip.Addr, []V]
}

func (x *addressIndex[V]) end() {
	x.owner.end()
	x.rivals.end()
}

func (x *addressIndex[V]) get(a netip.Addr) (V, bool) { return x.owner.get(a.Unmap()) }

// claim adds v to those who claim the address.
func (x *addressIndex[V]) claim(a netip.Addr, v V, better func(a, b V) bool) {
	a = a.Unmap()
	cur, ok := x.owner.get(a)
	if !ok {
		x.owner.set(a, v)
		return
	}
	list, ok := x.rivals.get(a)
	if !ok {
		list = []V{cur}
	}
	if slices.Contains(list, v) {
		return
	}
	x.rivals.set(a, append(slices.Clone(list), v))
	if better(v, cur) {
		x.owner.set(a, v)
	}
}

// release takes v's claim back.
func (x *addressIndex[V]) release(a netip.Addr, v V, better func(a, b V) bool) {
	a = a.Unmap()
	list, ok := x.rivals.get(a)
	if !ok {
		if cur, ok := x.owner.get(a); ok && cur == v {
			x.owner.remove(a)
		}
		return
	}
	list = slices.DeleteFunc(slices.Clone(list), func(r V) bool { return r == v })
	best := list[0]
	for _, r := range list[1:] {
		if better(r, best) {
			best = r
		}
	}
	x.owner.set(a, best)
	if len(list) == 1 {
		x.rivals.remove(a)
	} else {
		x.rivals.set(a, list)
	}
}

// betterWorkload prefers the workload that stays; the ID decides between equals.
func betterWorkload(a, b *Workload) bool {
	if a.Terminating != b.Terminating {
		return b.Terminating
	}
	return a.ID < b.ID
}

func betterService(a, b *Service) bool { return compareServiceKeys(a.Key, b.Key) < 0 }
