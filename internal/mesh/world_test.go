package mesh

import (
	"net/netip"
	"sync"
	"testing"
)

func TestZeroWorldIsEmpty(t *testing.T) {
	var w World
	if _, ok := w.WorkloadAt(netip.MustParseAddr("10.0.0.1")); ok {
		t.Error("a workload in an empty world")
	}
	if _, ok := w.Targets(ServiceKey{}, 80); ok {
		t.Error("targets in an empty world")
	}
	if n := count(w.Workloads()); n != 0 {
		t.Errorf("%d workloads", n)
	}
}

// The address of a pod that is going away belongs to its successor, even when
// the old pod changes once more before it is gone.
func TestAddressReused(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	pod := func(id WorkloadID, terminating bool) Update {
		return Update{Workloads: []*Workload{{ID: id, Addresses: []netip.Addr{addr}, Terminating: terminating}}}
	}
	steps := []struct {
		name string
		u    Update
		want WorkloadID
	}{
		{"the first pod", pod("a", false), "a"},
		{"it terminates", pod("a", true), "a"},
		{"its successor comes", pod("b", false), "b"},
		{"late news of the first", pod("a", true), "b"},
		{"the first is gone", Update{RemovedWorkloads: []WorkloadID{"a"}}, "b"},
		{"nobody is left", Update{RemovedWorkloads: []WorkloadID{"b"}}, ""},
	}
	w := &World{}
	for _, s := range steps {
		w = w.Apply(s.u)
		var got WorkloadID
		if wl, ok := w.WorkloadAt(addr); ok {
			got = wl.ID
		}
		if got != s.want {
			t.Errorf("%s: %q owns the address, want %q", s.name, got, s.want)
		}
	}
}

func TestUpsertWinsOverRemoval(t *testing.T) {
	w := (&World{}).Apply(Update{Workloads: []*Workload{{ID: "a"}}, RemovedWorkloads: []WorkloadID{"a"}})
	if _, ok := w.Workload("a"); !ok {
		t.Error("removed")
	}
}

func TestWaypointFor(t *testing.T) {
	producer, consumer := ProxyKey{"shop", "waypoint"}, ProxyKey{"client", "waypoint"}
	s := &Service{Waypoints: []WaypointBinding{
		{ClientNamespace: "client", Ports: []uint16{80}, Waypoint: consumer},
		{Waypoint: producer},
	}}
	tests := []struct {
		namespace string
		port      uint16
		want      ProxyKey
	}{
		{"client", 80, consumer},
		{"client", 81, producer},
		{"other", 80, producer},
	}
	for _, tt := range tests {
		if got, ok := s.WaypointFor(tt.namespace, tt.port); got != tt.want || !ok {
			t.Errorf("WaypointFor(%s, %d) = %s, %v", tt.namespace, tt.port, got, ok)
		}
	}
	if got, ok := (&Service{}).WaypointFor("client", 80); ok {
		t.Errorf("without bindings: %s", got)
	}
}

// Whoever takes Changed before Load sees every Apply, while others apply and
// read.
func TestStoreChanged(t *testing.T) {
	var s Store
	var g sync.WaitGroup
	const applies = 200
	for range 3 {
		g.Go(func() {
			for {
				changed := s.Changed()
				if count(s.Load().Workloads()) == applies {
					return
				}
				<-changed
			}
		})
	}
	for i := range applies {
		s.Apply(Update{Workloads: []*Workload{benchWorkload(i)}})
	}
	g.Wait()
}
