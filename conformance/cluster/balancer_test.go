package cluster

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestAssign(t *testing.T) {
	const text = `[
		{"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}},
		{"spec": {"type": "LoadBalancer"}},
		{"spec": {"type": "ClusterIP"}},
		{"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.org/other"}},
		{"spec": {"type": "LoadBalancer"}}]`
	var services []service
	if err := json.Unmarshal([]byte(text), &services); err != nil {
		t.Fatal(err)
	}
	pool := newAddressPool("192.0.2.0/29")
	// Each round hands out two more; in the third the pool begins again.
	for round, want := range []string{
		"map[1:192.0.2.2 4:192.0.2.3]", "map[1:192.0.2.4 4:192.0.2.5]", "map[1:192.0.2.6 4:192.0.2.7]", "map[1:192.0.2.2 4:192.0.2.3]",
	} {
		given, err := pool.assign(services)
		if got := fmt.Sprint(given); err != nil || got != want {
			t.Errorf("round %d: got %s %v, want %s", round, got, err, want)
		}
	}
}

func TestAssignFromFullPool(t *testing.T) {
	var wants service
	wants.Spec.Type = "LoadBalancer"
	given, err := newAddressPool("192.0.2.0/30").assign(make4(wants))
	if err == nil || len(given) != 3 {
		t.Errorf("got %v %v, want three addresses and an error", given, err)
	}
}

func make4(s service) []service { return []service{s, s, s, s} }
