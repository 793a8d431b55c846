package upstream

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// Balancer chooses endpoints: of two taken at random, the one with fewer
// requests under way ("power of two choices"). It is safe for concurrent use.
type Balancer struct {
	worlds *mesh.Store
	cache  atomic.Pointer[worldTargets]
	loads  sync.Map // netip.AddrPort -> *atomic.Int64
}

// NewBalancer returns a Balancer over the current World of the store.
func NewBalancer(worlds *mesh.Store) *Balancer { return &Balancer{worlds: worlds} }

// worldTargets remembers what one World said.
type worldTargets struct {
	world   *mesh.World
	targets sync.Map // serviceIn -> targetList
}

type serviceIn struct {
	key  mesh.ServiceKey
	port uint16
}

type targetList struct {
	targets []mesh.Target
	known   bool
}

func (b *Balancer) targets(key mesh.ServiceKey, port uint16) targetList {
	world := b.worlds.Load()
	c := b.cache.Load()
	if c == nil || c.world != world {
		c = &worldTargets{world: world}
		b.cache.Store(c)
		b.sweep()
	}
	in := serviceIn{key, port}
	if l, ok := c.targets.Load(in); ok {
		return l.(targetList)
	}
	var l targetList
	l.targets, l.known = world.Targets(key, port)
	c.targets.Store(in, l)
	return l
}

// sweep forgets idle endpoints, which may be gone for good. Losing the count of
// one that is just being chosen does no harm: release finds its own counter.
func (b *Balancer) sweep() {
	b.loads.Range(func(k, v any) bool {
		if v.(*atomic.Int64).Load() == 0 {
			b.loads.Delete(k)
		}
		return true
	})
}

func (b *Balancer) load(at netip.AddrPort) *atomic.Int64 {
	if v, ok := b.loads.Load(at); ok {
		return v.(*atomic.Int64)
	}
	v, _ := b.loads.LoadOrStore(at, new(atomic.Int64))
	return v.(*atomic.Int64)
}

// Pick chooses an endpoint of the Service port, one that is not among tried if
// there is any. The endpoint counts as busy until release is called. ok is
// false when there is none.
func (b *Balancer) Pick(key mesh.ServiceKey, port uint16, tried []netip.AddrPort) (t mesh.Target, release func(), ok bool) {
	return b.PickFor(netip.Addr{}, key, port, tried)
}

// PickFor is Pick for a client whose address the endpoint is to see: endpoints
// of the client's address family come first, since only they can.
func (b *Balancer) PickFor(client netip.Addr, key mesh.ServiceKey, port uint16, tried []netip.AddrPort) (t mesh.Target, release func(), ok bool) {
	list := b.targets(key, port).targets
	list = preferred(list, func(t mesh.Target) bool { return !slices.Contains(tried, t.Address) })
	if client.IsValid() {
		v4 := client.Unmap().Is4()
		list = preferred(list, func(t mesh.Target) bool { return t.Address.Addr().Unmap().Is4() == v4 })
	}
	if len(list) == 0 {
		return mesh.Target{}, nil, false
	}
	t = list[0]
	if len(list) > 1 {
		t = b.lighter(list)
	}
	load := b.load(t.Address)
	load.Add(1)
	return t, sync.OnceFunc(func() { load.Add(-1) }), true
}

// preferred returns the targets that fit, or all when none does. The list is
// shared and stays as it is.
func preferred(list []mesh.Target, fits func(mesh.Target) bool) []mesh.Target {
	unfit := slices.IndexFunc(list, func(t mesh.Target) bool { return !fits(t) })
	if unfit < 0 {
		return list
	}
	some := slices.DeleteFunc(slices.Clone(list), func(t mesh.Target) bool { return !fits(t) })
	if len(some) == 0 {
		return list
	}
	return some
}

func (b *Balancer) lighter(list []mesh.Target) mesh.Target {
	i := rand.IntN(len(list))
	j := rand.IntN(len(list) - 1)
	if j >= i {
		j++
	}
	if b.load(list[j].Address).Load() < b.load(list[i].Address).Load() {
		return list[j]
	}
	return list[i]
}

// Known reports whether the Service port exists.
func (b *Balancer) Known(key mesh.ServiceKey, port uint16) bool { return b.targets(key, port).known }
