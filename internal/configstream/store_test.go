package configstream

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// follower is what a client would have after everything that was collected.
type follower struct {
	*watcher
	have map[string]string // name -> version
}

func (f *follower) collect(t *testing.T, s *store, k kind, starts map[kind]map[string]string) {
	t.Helper()
	deltas, _, err := s.collect(f.watcher, starts)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range deltas[k].up {
		if starts != nil && f.have[r.GetName()] == r.GetVersion() {
			t.Errorf("%s sent again unchanged", r.GetName())
		}
		f.have[r.GetName()] = r.GetVersion()
	}
	for _, name := range deltas[k].removed {
		delete(f.have, name)
	}
}

// TestFollowersConverge publishes at random and lets watchers of different
// views and paces collect: each must end up with exactly what it may see.
func TestFollowersConverge(t *testing.T) {
	for run := range uint64(50) {
		r := rand.New(rand.NewPCG(run, 7))
		s, truth := newStore(), map[string]resource{}
		var all []*follower
		for _, p := range []Peer{{Role: RoleZTunnel}, {Role: RoleZTunnel}, {Role: RoleNodeAgent, Node: "n0"}, {Role: RoleNodeAgent, Node: "n1"}} {
			f := &follower{newWatcher(view{peer: p}), map[string]string{}}
			s.join(f.watcher)
			f.collect(t, s, kindWorkload, map[kind]map[string]string{kindWorkload: {}})
			all = append(all, f)
		}
		for range 400 {
			publishAtRandom(t, r, s, truth)
			f := all[min(r.IntN(8), len(all)-1)] // the last is quick, the others slow
			switch r.IntN(20) {
			case 0: // it comes back with what it has
				s.leave(f.watcher)
				f.watcher = newWatcher(f.view)
				s.join(f.watcher)
				f.collect(t, s, kindWorkload, map[kind]map[string]string{kindWorkload: maps.Clone(f.have)})
			default:
				f.collect(t, s, kindWorkload, nil)
			}
		}
		for i, f := range all {
			f.collect(t, s, kindWorkload, nil)
			want := map[string]string{}
			for name, res := range truth {
				if f.view.permits(kindWorkload, &res) {
					want[name] = res.wire.GetVersion()
				}
			}
			if !maps.Equal(f.have, want) {
				t.Fatalf("run %d: follower %d has %v, want %v", run, i, f.have, want)
			}
		}
		if gone := s.shelves[kindWorkload].gone; gone > 300+len(s.shelves[kindWorkload].entries)/2 {
			t.Errorf("%d tombstones kept", gone)
		}
	}
}

func publishAtRandom(t *testing.T, r *rand.Rand, s *store, truth map[string]resource) {
	t.Helper()
	var c [kindCount]change
	for range r.IntN(4) {
		// Names are used again, but new ones come too, so that tombstones add up.
		id := fmt.Sprintf("w%d", r.IntN(1000))
		if r.IntN(2) == 0 {
			id = fmt.Sprintf("w%d", r.IntN(8))
		}
		if r.IntN(2) == 0 {
			c[kindWorkload].removed = append(c[kindWorkload].removed, id)
			continue
		}
		w := workload(id, fmt.Sprintf("n%d", r.IntN(3)))
		w.App = fmt.Sprint(r.IntN(3))
		res, err := workloadResource(w)
		if err != nil {
			t.Fatal(err)
		}
		c[kindWorkload].up = append(c[kindWorkload].up, res)
	}
	for _, name := range c[kindWorkload].removed {
		delete(truth, name)
	}
	for _, res := range c[kindWorkload].up {
		truth[res.wire.GetName()] = res
	}
	s.publish(c)
}

const benchPods = 100_000

func benchUpdate() mesh.Update {
	var u mesh.Update
	for i := range benchPods {
		u.Workloads = append(u.Workloads, benchWorkload(i, ""))
	}
	return u
}

func benchWorkload(i int, app string) *mesh.Workload {
	return &mesh.Workload{
		ID: mesh.WorkloadID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)), Namespace: "shop",
		Identity:  spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
		Name:      fmt.Sprintf("web-5d4f8c7b9-%05d", i), ServiceAccount: "web", Node: fmt.Sprintf("node-%d", i/100),
		Enrolled: true, Tunnel: mesh.TunnelHBONE, OwnerKind: "Deployment", OwnerName: "web", App: "web" + app,
	}
}

// BenchmarkPublish is one changed pod of 100,000, with 1,000 ztunnels and 1,000
// node agents, each of which collects what concerns it.
func BenchmarkPublish(b *testing.B) {
	s := newTestServer()
	s.PublishMesh(benchUpdate())
	var watchers []*watcher
	for i := range 1000 {
		for _, p := range []Peer{{Role: RoleZTunnel}, {Role: RoleNodeAgent, Node: fmt.Sprintf("node-%d", i)}} {
			w := newWatcher(view{peer: p})
			s.store.join(w)
			if _, _, err := s.store.collect(w, map[kind]map[string]string{kindWorkload: {}}); err != nil {
				b.Fatal(err)
			}
			watchers = append(watchers, w)
		}
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		s.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{benchWorkload(i%benchPods, fmt.Sprint(i))}})
		for _, w := range watchers {
			if _, _, err := s.store.collect(w, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkSync is what a new ztunnel costs at 100,000 pods: the server's
// collection, and the client's decoding into a World.
func BenchmarkSync(b *testing.B) {
	s := newTestServer()
	s.PublishMesh(benchUpdate())
	var deltas [kindCount]delta
	b.Run("collect", func(b *testing.B) {
		for b.Loop() {
			w := newWatcher(view{peer: Peer{Role: RoleZTunnel}})
			var err error
			if deltas, _, err = s.store.collect(w, map[kind]map[string]string{kindWorkload: {}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	st := newStream(s, Peer{Role: RoleZTunnel}, nil)
	resp := st.response(kindWorkload, deltas[kindWorkload].up, nil, 1)
	b.Run("apply", func(b *testing.B) {
		b.ReportAllocs()
		before := heap()
		in := newInbox(ClientOptions{Role: RoleZTunnel, Worlds: &mesh.Store{}})
		in.apply(kindWorkload, resp)
		size := heap() - before
		runtime.KeepAlive(in)
		for b.Loop() {
			newInbox(ClientOptions{Role: RoleZTunnel, Worlds: &mesh.Store{}}).apply(kindWorkload, resp)
		}
		b.ReportMetric(float64(size)/benchPods, "bytes/pod")
	})
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkTable is a routing table of 100 rules on its way through the wire
// form.
func BenchmarkTable(b *testing.B) {
	t := table("wp", "web")
	t.Listeners = []routing.Listener{{Port: 80, Routed: true}}
	for i := range 100 {
		t.Listeners[0].Rules = append(t.Listeners[0].Rules, routing.Rule{
			Matches:  []routing.Match{{Path: routing.PathMatch{Value: fmt.Sprintf("/api/%d", i)}}},
			Backends: []routing.Backend{{Service: mesh.ServiceKey{Namespace: "a", Name: "web"}, Port: 80, Weight: 1}},
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := tableResource(t)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := decodeTable(r.wire.GetResource().GetValue()); err != nil {
			b.Fatal(err)
		}
	}
}
