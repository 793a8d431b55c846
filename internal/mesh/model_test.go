package mesh

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// model is a World without indices: it answers every question by looking at
// everything. What it says depends on what there is, never on how it came.
type model struct {
	workloads map[WorkloadID]*Workload
	services  map[ServiceKey]*Service
	slices    map[SliceKey]*EndpointSlice
}

func newModel() *model {
	return &model{map[WorkloadID]*Workload{}, map[ServiceKey]*Service{}, map[SliceKey]*EndpointSlice{}}
}

func (m *model) apply(u Update) {
	for _, id := range u.RemovedWorkloads {
		delete(m.workloads, id)
	}
	for _, k := range u.RemovedServices {
		delete(m.services, k)
	}
	for _, k := range u.RemovedSlices {
		delete(m.slices, k)
	}
	for _, w := range u.Workloads {
		m.workloads[w.ID] = w
	}
	for _, s := range u.Services {
		m.services[s.Key] = s
	}
	for _, s := range u.Slices {
		m.slices[s.Key] = s
	}
}

func (m *model) workloadAt(a netip.Addr) (best *Workload) {
	for _, w := range m.workloads {
		if !slices.ContainsFunc(w.Addresses, func(b netip.Addr) bool { return b.Unmap() == a.Unmap() }) {
			continue
		}
		if best == nil || best.Terminating && !w.Terminating || best.Terminating == w.Terminating && w.ID < best.ID {
			best = w
		}
	}
	return best
}

func (m *model) serviceAt(a netip.Addr) (best *Service) {
	for _, s := range m.services {
		if slices.Contains(s.Addresses, a) && (best == nil || compareServiceKeys(s.Key, best.Key) < 0) {
			best = s
		}
	}
	return best
}

func (m *model) targets(key ServiceKey, port uint16) (ready, serving []Target) {
	var list []*EndpointSlice
	for _, s := range m.slices {
		if s.Service == key {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *EndpointSlice) int { return cmp.Compare(a.Key.Name, b.Key.Name) })
	sp, _ := m.services[key].PortNumbered(port)
	for _, s := range list {
		for _, p := range s.Ports {
			if p.Name != sp.Name {
				continue
			}
			for _, e := range s.Endpoints {
				t := Target{Address: netip.AddrPortFrom(e.Address, p.Port), Workload: m.workloads[e.Workload]}
				if e.Ready && !e.Terminating {
					ready = append(ready, t)
				} else if e.Serving {
					serving = append(serving, t)
				}
			}
		}
	}
	return ready, serving
}

func (m *model) servicesOf(id WorkloadID) (out []ServiceKey) {
	for _, s := range m.slices {
		for _, e := range s.Endpoints {
			if e.Workload == id && !slices.Contains(out, s.Service) {
				out = append(out, s.Service)
			}
		}
	}
	slices.SortFunc(out, compareServiceKeys)
	return out
}

func (m *model) maySpeakFor(peer spiffeid.ID, id WorkloadID) bool {
	w := m.workloads[id]
	return w != nil && slices.ContainsFunc(m.servicesOf(id), func(k ServiceKey) bool {
		s := m.services[k]
		return s != nil && k.Namespace == w.Namespace && slices.Contains(s.Speakers, peer)
	})
}

// universe makes values of few names and addresses, so that they collide.
type universe struct{ *rand.Rand }

const names = 6

func (u universe) id() WorkloadID { return WorkloadID(fmt.Sprintf("w%d", u.IntN(names))) }
func (u universe) service() ServiceKey {
	return ServiceKey{Namespace: fmt.Sprintf("n%d", u.IntN(2)), Name: fmt.Sprintf("s%d", u.IntN(names/2))}
}
func (u universe) slice() SliceKey {
	return SliceKey{Namespace: "n", Name: fmt.Sprintf("e%d", u.IntN(names))}
}
func (u universe) addr() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(u.IntN(names))}) }
func (u universe) speaker() spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://td/ns/n/sa/w%d", u.IntN(2)))
}

func (u universe) addrs() (out []netip.Addr) {
	for range u.IntN(3) {
		out = append(out, u.addr())
	}
	return out
}

func (u universe) update() (up Update) {
	for range u.IntN(3) {
		w := &Workload{ID: u.id(), Namespace: u.service().Namespace, Addresses: u.addrs(), Terminating: u.IntN(3) == 0}
		if u.IntN(2) == 0 && len(w.Addresses) > 0 { // an IPv4 address in IPv6 clothes
			w.Addresses[0] = netip.AddrFrom16(w.Addresses[0].As16())
		}
		up.Workloads = append(up.Workloads, w)
	}
	for range u.IntN(3) {
		s := &Service{Key: u.service(), Addresses: u.addrs(), Ports: []ServicePort{{Name: "http", Port: 80}, {Name: "tcp", Port: 90}}}
		for range u.IntN(3) {
			s.Speakers = append(s.Speakers, u.speaker())
		}
		up.Services = append(up.Services, s)
	}
	for range u.IntN(3) {
		up.Slices = append(up.Slices, u.endpoints())
	}
	for range u.IntN(3) {
		up.RemovedWorkloads = append(up.RemovedWorkloads, u.id())
		up.RemovedServices = append(up.RemovedServices, u.service())
		up.RemovedSlices = append(up.RemovedSlices, u.slice())
	}
	return up
}

func (u universe) endpoints() *EndpointSlice {
	s := &EndpointSlice{Key: u.slice(), Service: u.service(), Ports: []EndpointPort{{Name: "http", Port: uint16(8080 + u.IntN(2))}}}
	for range u.IntN(4) {
		e := Endpoint{Address: u.addr(), Ready: u.IntN(2) == 0, Serving: u.IntN(2) == 0, Terminating: u.IntN(3) == 0}
		if u.IntN(4) > 0 {
			e.Workload = u.id()
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// compare asks both everything there is to ask.
func compare(t *testing.T, w *World, m *model) {
	t.Helper()
	same := func(what string, got, want any) {
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got %+v, want %+v", what, got, want)
		}
	}
	for i := range names {
		id := WorkloadID(fmt.Sprintf("w%d", i))
		got, _ := w.Workload(id)
		same("Workload", got, m.workloads[id])
		same("ServicesOf "+string(id), w.ServicesOf(id), m.servicesOf(id))
		for j := range 2 {
			peer := spiffeid.RequireFromString(fmt.Sprintf("spiffe://td/ns/n/sa/w%d", j))
			same("MaySpeakFor "+string(id), w.MaySpeakFor(peer, id), m.maySpeakFor(peer, id))
		}
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		at, _ := w.WorkloadAt(a)
		same("WorkloadAt "+a.String(), at, m.workloadAt(a))
		svc, _ := w.ServiceAt(a)
		same("ServiceAt "+a.String(), svc, m.serviceAt(a))
	}
	for key := range m.services {
		for _, port := range []uint16{80, 90} {
			got, ok := w.Targets(key, port)
			ready, serving := m.targets(key, port)
			if len(ready) == 0 {
				ready = serving
			}
			same("Targets "+key.String(), got, ready)
			same("Targets ok", ok, true)
		}
	}
	same("number of workloads", count(w.Workloads()), len(m.workloads))
	same("number of services", count(w.Services()), len(m.services))
	same("number of slices", count(w.Slices()), len(m.slices))
}

func count[V any](seq func(func(V) bool)) (n int) {
	for range seq {
		n++
	}
	return n
}

// TestWorldEqualsModel applies random updates; each World in between must stay
// as it was.
func TestWorldEqualsModel(t *testing.T) {
	for run := range 60 {
		u := universe{rand.New(rand.NewPCG(uint64(run), 1))}
		w, m := &World{}, newModel()
		old, oldModel := w, newModel()
		for step := range 40 {
			up := u.update()
			if step%10 == 0 {
				old, oldModel = w, newModel()
				oldModel.apply(everything(w))
			}
			w = w.Apply(up)
			m.apply(up)
			compare(t, w, m)
			compare(t, old, oldModel)
		}
		for k := range w.services.values() { // an index that outlives its values would show here
			w = w.Apply(Update{RemovedServices: []ServiceKey{k.Key}})
		}
		all := everything(w)
		var gone Update
		for _, wl := range all.Workloads {
			gone.RemovedWorkloads = append(gone.RemovedWorkloads, wl.ID)
		}
		for _, s := range all.Slices {
			gone.RemovedSlices = append(gone.RemovedSlices, s.Key)
		}
		w = w.Apply(gone)
		if n := w.entries(); n != 0 {
			t.Fatalf("%d entries of indices are left in an empty world", n)
		}
	}
}

func everything(w *World) (u Update) {
	for v := range w.Workloads() {
		u.Workloads = append(u.Workloads, v)
	}
	for v := range w.Services() {
		u.Services = append(u.Services, v)
	}
	for v := range w.Slices() {
		u.Slices = append(u.Slices, v)
	}
	return u
}

func (w *World) entries() int {
	return count(w.byAddress.owner.values()) + count(w.byAddress.rivals.values()) +
		count(w.byVIP.owner.values()) + count(w.byVIP.rivals.values()) + count(w.ofService.values()) + count(w.ofWorkload.values())
}
