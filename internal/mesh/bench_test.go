package mesh

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

const benchPods = 100_000

func benchWorkload(i int) *Workload {
	return &Workload{
		ID:        WorkloadID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)),
		Namespace: "shop", Name: fmt.Sprintf("web-%d", i), ServiceAccount: "web", Node: "node-1",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
		Enrolled:  true, Tunnel: TunnelHBONE,
	}
}

// benchWorld has 100,000 pods, ten behind each of 10,000 services.
func benchWorld() *World {
	var u Update
	for i := range benchPods {
		u.Workloads = append(u.Workloads, benchWorkload(i))
	}
	for i := range benchPods / 10 {
		key := ServiceKey{Namespace: "shop", Name: fmt.Sprintf("svc-%d", i)}
		s := &EndpointSlice{Key: SliceKey{Namespace: "shop", Name: key.Name + "-1"}, Service: key, Ports: []EndpointPort{{Name: "http", Port: 8080}}}
		for j := range 10 {
			wl := u.Workloads[i*10+j]
			s.Endpoints = append(s.Endpoints, Endpoint{Address: wl.Addresses[0], Workload: wl.ID, Ready: true, Serving: true})
		}
		u.Services = append(u.Services, &Service{
			Key: key, Ports: []ServicePort{{Name: "http", Port: 80}},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
		})
		u.Slices = append(u.Slices, s)
	}
	return (&World{}).Apply(u)
}

// BenchmarkApply is one changed pod, one changed slice, and both, in a mesh of
// 100,000 pods.
func BenchmarkApply(b *testing.B) {
	w := benchWorld()
	slice, _ := w.slices.get(SliceKey{Namespace: "shop", Name: "svc-7-1"})
	updates := map[string]Update{
		"workload":  {Workloads: []*Workload{benchWorkload(4711)}},
		"slice":     {Slices: []*EndpointSlice{slice}},
		"pod moves": {Workloads: []*Workload{benchWorkload(benchPods)}, RemovedWorkloads: []WorkloadID{benchWorkload(5).ID}, Slices: []*EndpointSlice{slice}},
	}
	for name, u := range updates {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.Apply(u)
			}
		})
	}
}

// BenchmarkLoad builds the whole world at once, and says how large it is.
func BenchmarkLoad(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := benchWorld()
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		benchWorld()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/benchPods, "bytes/pod")
	runtime.KeepAlive(w)
}

func BenchmarkLookup(b *testing.B) {
	w := benchWorld()
	addr := benchWorkload(4711).Addresses[0]
	key := ServiceKey{Namespace: "shop", Name: "svc-7"}
	b.Run("WorkloadAt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.WorkloadAt(addr)
		}
	})
	b.Run("Targets", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Targets(key, 80)
		}
	})
}
