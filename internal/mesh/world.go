package mesh

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Update is a set of changes to a World: whole new values and names of what is
// gone. A removal wins over an upsert of the same name only if the name does
// not occur among the upserts.
type Update struct {
	Workloads        []*Workload
	Services         []*Service
	Slices           []*EndpointSlice
	RemovedWorkloads []WorkloadID
	RemovedServices  []ServiceKey
	RemovedSlices    []SliceKey
}

// Empty reports whether the update changes nothing.
func (u Update) Empty() bool {
	return len(u.Workloads) == 0 && len(u.Services) == 0 && len(u.Slices) == 0 &&
		len(u.RemovedWorkloads) == 0 && len(u.RemovedServices) == 0 && len(u.RemovedSlices) == 0
}

// World is everything that is known of the mesh at one moment. It is immutable
// and safe for any number of readers; the values it hands out are shared and
// must not be changed. The zero World is empty.
type World struct {
	workloads  table[WorkloadID, *Workload]
	services   table[ServiceKey, *Service]
	slices     table[SliceKey, *EndpointSlice]
	byAddress  addressIndex[*Workload]
	byVIP      addressIndex[*Service]
	ofService  table[ServiceKey, []*EndpointSlice] // sorted by key
	ofWorkload table[WorkloadID, []SliceKey]
}

// Apply returns the World after the update; the receiver stays as it was.
func (w *World) Apply(u Update) *World {
	next := *w
	defer next.end()
	b := builder{w: &next}
	for _, id := range u.RemovedWorkloads {
		b.removeWorkload(id)
	}
	for _, k := range u.RemovedServices {
		b.removeService(k)
	}
	for _, k := range u.RemovedSlices {
		b.removeSlice(k)
	}
	for _, wl := range u.Workloads {
		b.removeWorkload(wl.ID)
		b.addWorkload(wl)
	}
	for _, s := range u.Services {
		b.removeService(s.Key)
		b.addService(s)
	}
	for _, s := range u.Slices {
		b.setSlice(s)
	}
	return &next
}

func (w *World) end() {
	w.workloads.end()
	w.services.end()
	w.slices.end()
	w.byAddress.end()
	w.byVIP.end()
	w.ofService.end()
	w.ofWorkload.end()
}

// Workload returns the workload with that ID.
func (w *World) Workload(id WorkloadID) (*Workload, bool) { return w.workloads.get(id) }

// WorkloadAt returns the workload that owns the address. Of two that claim it,
// that is the one that is not terminating.
func (w *World) WorkloadAt(addr netip.Addr) (*Workload, bool) { return w.byAddress.get(addr) }

// Service returns the Service with that key.
func (w *World) Service(key ServiceKey) (*Service, bool) { return w.services.get(key) }

// ServiceAt returns the Service that owns the cluster address.
func (w *World) ServiceAt(addr netip.Addr) (*Service, bool) { return w.byVIP.get(addr) }

// Workloads yields every workload, in no order.
func (w *World) Workloads() func(yield func(*Workload) bool) { return w.workloads.values() }

// Services yields every Service, in no order.
func (w *World) Services() func(yield func(*Service) bool) { return w.services.values() }

// Slices yields every EndpointSlice, in no order.
func (w *World) Slices() func(yield func(*EndpointSlice) bool) { return w.slices.values() }

// Target is an endpoint of a Service port that can be connected to.
type Target struct {
	// Address is the endpoint's address and its own port, not the Service's.
	Address netip.AddrPort
	// Workload stands behind it; nil when no known pod does.
	Workload *Workload
	Node     string
	Zone     string
}

// Targets returns the endpoints to use for new connections to a Service port:
// the ready ones, or the serving ones when none is ready. ok is false when the
// Service or the port does not exist; the list may then still be asked for
// again later.
func (w *World) Targets(key ServiceKey, port uint16) (targets []Target, ok bool) {
	svc, found := w.Service(key)
	if !found {
		return nil, false
	}
	sp, found := svc.PortNumbered(port)
	if !found {
		return nil, false
	}
	ready, serving := w.collect(key, sp.Name)
	if len(ready) == 0 {
		return serving, true
	}
	return ready, true
}

func (w *World) collect(key ServiceKey, portName string) (ready, serving []Target) {
	list, _ := w.ofService.get(key)
	n := 0
	for _, s := range list {
		n += len(s.Endpoints)
	}
	ready = make([]Target, 0, n)
	for _, s := range list {
		number, ok := s.portNamed(portName)
		if !ok {
			continue
		}
		for _, e := range s.Endpoints {
			t := Target{Address: netip.AddrPortFrom(e.Address, number), Node: e.Node, Zone: e.Zone}
			if e.Workload != "" {
				t.Workload, _ = w.Workload(e.Workload)
			}
			switch {
			case e.Ready && !e.Terminating:
				ready = append(ready, t)
			case e.Serving:
				serving = append(serving, t)
			}
		}
	}
	return ready, serving
}

func (s *EndpointSlice) portNamed(name string) (uint16, bool) {
	for _, p := range s.Ports {
		if p.Name == name {
			return p.Port, true
		}
	}
	return 0, false
}

// MaySpeakFor reports whether the peer may assert other clients' identities to
// the workload: it is a Speaker of a Service of the workload's own namespace
// that the workload is an endpoint of. The namespace counts because
// EndpointSlices may be written by hand and name any pod.
func (w *World) MaySpeakFor(peer spiffeid.ID, id WorkloadID) bool {
	wl, ok := w.Workload(id)
	if !ok {
		return false
	}
	keys, _ := w.ofWorkload.get(id)
	for _, k := range keys {
		slice, ok := w.slices.get(k)
		if !ok || slice.Service.Namespace != wl.Namespace {
			continue
		}
		svc, ok := w.Service(slice.Service)
		if ok && slices.Contains(svc.Speakers, peer) {
			return true
		}
	}
	return false
}

// ServicesOf returns the Services that the workload is an endpoint of, sorted.
func (w *World) ServicesOf(id WorkloadID) []ServiceKey {
	keys, _ := w.ofWorkload.get(id)
	var out []ServiceKey
	for _, k := range keys {
		if slice, ok := w.slices.get(k); ok && !slices.Contains(out, slice.Service) {
			out = append(out, slice.Service)
		}
	}
	slices.SortFunc(out, compareServiceKeys)
	return out
}

// EndpointOf returns where one workload serves a Service port: the address and
// port of its endpoint, of the family of like if it has one. ok is false when
// the Service has no such port or the workload is no endpoint of it, ready or
// not.
func (w *World) EndpointOf(key ServiceKey, port uint16, id WorkloadID, like netip.Addr) (addr netip.AddrPort, ok bool) {
	svc, found := w.Service(key)
	if !found {
		return addr, false
	}
	sp, found := svc.PortNumbered(port)
	if !found {
		return addr, false
	}
	list, _ := w.ofService.get(key)
	for _, s := range list {
		number, found := s.portNamed(sp.Name)
		if !found {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Workload != id {
				continue
			}
			if !ok || e.Address.Unmap().Is4() == like.Is4() {
				addr, ok = netip.AddrPortFrom(e.Address.Unmap(), number), true
			}
		}
	}
	return addr, ok
}

// Store publishes the current World. Its zero value holds an empty one. Reads
// never block; Apply is for one writer at a time.
type Store struct {
	current atomic.Pointer[World]
	mu      sync.Mutex
	changed chan struct{}
}

// Load returns the current World. Load it once for each connection or request:
// one decision must not see two worlds.
func (s *Store) Load() *World {
	if w := s.current.Load(); w != nil {
		return w
	}
	return &World{}
}

// Apply publishes the World after the update and wakes everyone who waits on
// Changed.
func (s *Store) Apply(u Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(s.Load().Apply(u))
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Changed returns a channel that is closed at the next Apply. Take it before
// Load, or a change in between is missed.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}
