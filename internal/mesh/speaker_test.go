package mesh

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestMaySpeakFor(t *testing.T) {
	waypoint := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/waypoint")
	stranger := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/app")
	service := ServiceKey{Namespace: "shop", Name: "web"}
	w := (&World{}).Apply(Update{
		Workloads: []*Workload{{ID: "own", Namespace: "shop"}, {ID: "foreign", Namespace: "bank"}, {ID: "alone", Namespace: "shop"}},
		Services:  []*Service{{Key: service, Speakers: []spiffeid.ID{waypoint}}},
		Slices: []*EndpointSlice{{
			Key: SliceKey{Namespace: "shop", Name: "web-1"}, Service: service,
			Endpoints: []Endpoint{{Workload: "own"}, {Workload: "foreign"}, {Workload: "unknown"}},
		}},
	})
	for _, c := range []struct {
		peer spiffeid.ID
		id   WorkloadID
		want bool
	}{
		{waypoint, "own", true},
		{stranger, "own", false},
		{waypoint, "foreign", false}, // a slice written by hand
		{waypoint, "alone", false},
		{waypoint, "unknown", false},
	} {
		if got := w.MaySpeakFor(c.peer, c.id); got != c.want {
			t.Errorf("MaySpeakFor(%s, %s) = %v", c.peer, c.id, got)
		}
	}
}
