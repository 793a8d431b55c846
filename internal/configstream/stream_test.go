package configstream

import (
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

var allKinds = []kind{kindWorkload, kindSlice, kindService, kindTable}

func TestStreamsAreHeldUntilSynced(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := r.raw("ztunnel")
		defer c.close()
		c.subscribe(kindWorkload)
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("p1", "n1")}})
		expect(t, lines(c.received()))
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("p2", "n1")}})
		r.server.SetSynced()
		expect(t, lines(c.received()), "Workload +p1 +p2")
	})
}

func TestFirstResponseComesEvenIfEmpty(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.server.SetSynced()
		c := r.raw("wp")
		defer c.close()
		c.subscribe(allKinds...)
		var got []string
		for resps := c.received(); len(resps) > 0; resps = c.received() {
			got = append(got, lines(resps)...)
			c.ack("", resps...)
		}
		expect(t, got, "Workload", "EndpointSlice", "Service", "Table")
	})
}

// synced opens a raw client that is up to date with an empty server.
func synced(r *rig, tok string, kinds ...kind) *raw {
	r.server.SetSynced()
	c := r.raw(tok)
	c.subscribe(kinds...)
	for resps := c.received(); len(resps) > 0; resps = c.received() {
		c.ack("", resps...)
	}
	return c
}

func TestOrder(t *testing.T) {
	svc, sl := named1("web")
	inBubble(t, func(r *rig) {
		c := synced(r, "wp", allKinds...)
		defer c.close()

		// While the client owes an answer, changes of all kinds gather.
		block := func(w string) []*discoverypb.DeltaDiscoveryResponse {
			r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload(w, "n")}})
			return c.received()
		}
		owed := block("x")
		r.server.PublishTables([]*routing.Table{table("wp", "web"), table("other", "web")}, nil)
		r.server.PublishMesh(mesh.Update{Services: []*mesh.Service{service("web")}})
		r.server.PublishMesh(mesh.Update{Slices: []*mesh.EndpointSlice{slice("web")}})
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("p", "n")}})
		expect(t, lines(c.received()))
		c.ack("", owed...)
		turn := c.received()
		expect(t, lines(turn), "Workload +p", "EndpointSlice +a/web-1", "Service +a/web", "Table +a/wp/service/a/web")
		c.ack("", turn...)

		owed = block("y")
		r.server.PublishMesh(mesh.Update{
			RemovedWorkloads: []mesh.WorkloadID{"p"},
			RemovedServices:  []mesh.ServiceKey{svc},
			RemovedSlices:    []mesh.SliceKey{sl},
		})
		r.server.PublishTables([]*routing.Table{table("wp", "new")}, []routing.TableKey{tableKey("wp", "web"), tableKey("other", "web")})
		c.ack("", owed...)
		expect(t, lines(c.received()), "Table -a/wp/service/a/web", "Table +a/wp/service/a/new",
			"Service -a/web", "EndpointSlice -a/web-1", "Workload -p")
	})
}

// A client that does not answer gets the newest value of each key when it does
// again, and slows no other client.
func TestSlowClientGetsNewestOnly(t *testing.T) {
	inBubble(t, func(r *rig) {
		slow := synced(r, "ztunnel", kindWorkload)
		defer slow.close()
		quick := synced(r, "ztunnel", kindWorkload)
		defer quick.close()
		publish := func(id, name string) {
			w := workload(id, "n")
			w.Name = name
			r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{w}})
		}
		publish("a", "first")
		owed := slow.received()
		expect(t, lines(owed), "Workload +a")
		quick.ack("", quick.received()...)

		for _, name := range []string{"1", "2", "3"} {
			publish("a", name)
			publish("b", name)
			resps := quick.received()
			if len(resps) == 0 {
				t.Fatal("the quick client waits for the slow one")
			}
			for ; len(resps) > 0; resps = quick.received() {
				quick.ack("", resps...)
			}
		}
		publish("c", "short-lived")
		r.server.PublishMesh(mesh.Update{RemovedWorkloads: []mesh.WorkloadID{"c"}})
		expect(t, lines(slow.received()))
		slow.ack("", owed...)
		got := slow.received()
		expect(t, lines(got), "Workload +a +b", "Workload -c")
		for _, res := range got[0].GetResources() {
			w, err := decodeWorkload(res.GetResource().GetValue())
			if err != nil || w.Name != "3" {
				t.Errorf("got %+v, %v; want the newest", w, err)
			}
		}
	})
}

func TestUnchangedValuesAreNotSent(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := synced(r, "ztunnel", kindWorkload)
		defer c.close()
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("a", "n")}})
		c.ack("", c.received()...)
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("a", "n")}, RemovedWorkloads: []mesh.WorkloadID{"a", "never"}})
		expect(t, lines(c.received()))
	})
}

func TestNACKIsRecordedAndNotRepeated(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := synced(r, "ztunnel", kindWorkload)
		defer c.close()
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("a", "n")}})
		c.ack("a: bad", c.received()...)
		expect(t, lines(c.received()))
		p := r.server.Proxies()
		if len(p) != 1 || p[0].LastNACK == nil || p[0].LastNACK.Message != "a: bad" || p[0].LastNACK.Type != "Workload" {
			t.Fatalf("status %+v", p)
		}
		if ts := p[0].Types[0]; ts.Acked != ts.Current || ts.Sent != ts.Current {
			t.Errorf("answered, but %+v", ts)
		}
		w := workload("a", "n")
		w.Name = "better"
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{w}})
		owed := c.received()
		expect(t, lines(owed), "Workload +a")
		if ts := r.server.Proxies()[0].Types[0]; ts.Acked >= ts.Sent || ts.Sent != ts.Current {
			t.Errorf("sent and not answered, but %+v", ts)
		}
	})
}

func TestRoles(t *testing.T) {
	fill := func(s *Server) {
		s.PublishMesh(mesh.Update{
			Workloads: []*mesh.Workload{workload("p1", "n1"), workload("p2", "n2")},
			Services:  []*mesh.Service{service("web")},
			Slices:    []*mesh.EndpointSlice{slice("web")},
		})
		s.PublishTables([]*routing.Table{table("wp", "web"), table("other", "web")}, nil)
		s.SetSynced()
	}
	tests := map[string][]string{
		"agent1":  {"Workload +p1", "EndpointSlice", "Service", "Table"},
		"ztunnel": {"Workload +p1 +p2", "EndpointSlice +a/web-1", "Service +a/web", "Table"},
		"wp":      {"Workload +p1 +p2", "EndpointSlice +a/web-1", "Service +a/web", "Table +a/wp/service/a/web"},
	}
	for tok, want := range tests {
		t.Run(tok, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				fill(r.server)
				c := r.raw(tok)
				defer c.close()
				var got []string
				c.subscribe(allKinds...)
				for resps := c.received(); len(resps) > 0; resps = c.received() {
					got = append(got, lines(resps)...)
					c.ack("", resps...)
				}
				expect(t, got, want...)
			})
		})
	}
}

// A workload that comes into or goes out of view is an addition or a removal;
// one that was never in view is nothing.
func TestViewChanges(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := synced(r, "agent1", kindWorkload)
		defer c.close()
		step := func(w *mesh.Workload, want ...string) {
			t.Helper()
			r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{w}})
			got := c.received()
			expect(t, lines(got), want...)
			c.ack("", got...)
		}
		step(workload("p", ""))
		step(workload("p", "n1"), "Workload +p")
		step(workload("p", "n2"), "Workload -p")
		step(workload("q", "n2"))
		r.server.PublishMesh(mesh.Update{RemovedWorkloads: []mesh.WorkloadID{"p", "q"}})
		expect(t, lines(c.received()))
	})
}

// What narrows a table is withheld, table and all, from a client that would
// ignore it, and taken back when the narrowing comes later.
func TestWithheldForWantOfCapability(t *testing.T) {
	narrow := table("wp", "web")
	narrow.ClientNamespace = "b"
	inBubble(t, func(r *rig) {
		old := synced(r, "wp", kindTable)
		defer old.close()
		r.server.PublishTables([]*routing.Table{table("wp", "web")}, nil)
		got := old.received()
		expect(t, lines(got), "Table +a/wp/service/a/web")
		old.ack("", got...)
		r.server.PublishTables([]*routing.Table{narrow}, nil)
		expect(t, lines(old.received()), "Table -a/wp/service/a/web")
		expect(t, r.server.Proxies()[0].Withheld, "a/wp/service/a/web")

		meta, err := structpb.NewStruct(map[string]any{metaCapabilities: []any{capClientNamespace}})
		if err != nil {
			t.Fatal(err)
		}
		able := r.raw("wp")
		defer able.close()
		able.send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: kindTable.typeURL(), Node: &corepb.Node{Metadata: meta}})
		expect(t, lines(able.received()), "Table +a/wp/service/a/web")
		expect(t, r.server.Proxies()[1].Capabilities, capClientNamespace)
		expect(t, r.server.Proxies()[1].Withheld)
	})
}

func TestResumeSendsTheDifference(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("same", "n"), workload("other", "n"), workload("new", "n")}})
		r.server.SetSynced()
		same, err := workloadResource(workload("same", "n"))
		if err != nil {
			t.Fatal(err)
		}
		c := r.raw("ztunnel")
		defer c.close()
		c.send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: kindWorkload.typeURL(), InitialResourceVersions: map[string]string{
			"same": same.wire.GetVersion(), "other": "old", "gone": "old",
		}})
		expect(t, lines(c.received()), "Workload +other +new", "Workload -gone")
	})
}

func TestUnknownTypeIsIgnored(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.server.SetSynced()
		c := r.raw("ztunnel")
		defer c.close()
		c.send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: typePrefix + "Policy"})
		c.subscribe(kindService)
		expect(t, lines(c.received()), "Service")
	})
}

func TestUnauthenticatedIsRefused(t *testing.T) {
	for _, tok := range []string{"stolen", "", "nodeless"} {
		inBubble(t, func(r *rig) {
			r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("a", "n")}})
			r.server.SetSynced()
			c := r.raw(tok)
			defer c.close()
			expect(t, lines(c.received()))
			c.reader.Wait()
			if status.Code(c.err) != codes.Unauthenticated {
				t.Errorf("token %q: %v", tok, c.err)
			}
			if n := len(r.server.Proxies()); n != 0 {
				t.Errorf("%d streams", n)
			}
		})
	}
}

// A client that never answers does not make the server keep tombstones for
// ever: it is told to start again.
func TestTooFarBehind(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.server.store.maxGone = 300
		stuck := synced(r, "ztunnel", kindWorkload)
		defer stuck.close()
		live := synced(r, "ztunnel", kindWorkload)
		defer live.close()
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("owed", "n")}})
		stuck.received() // and no answer
		var ups mesh.Update
		var downs mesh.Update
		for i := range 1000 {
			w := workload(name("w", string(rune('a'+i%26)), string(rune('0'+i/26))), "n")
			ups.Workloads = append(ups.Workloads, w)
			downs.RemovedWorkloads = append(downs.RemovedWorkloads, w.ID)
		}
		for _, u := range []mesh.Update{ups, downs, {Workloads: []*mesh.Workload{workload("last", "n")}}} {
			for resps := live.received(); len(resps) > 0; resps = live.received() {
				live.ack("", resps...)
			}
			r.server.PublishMesh(u)
		}
		stuck.reader.Wait()
		if status.Code(stuck.err) != codes.Aborted {
			t.Errorf("the stuck client's stream: %v", stuck.err)
		}
		live.ack("", live.received()...)
		if n := len(r.server.Proxies()); n != 1 {
			t.Errorf("%d streams left, want the one that answers", n)
		}
	})
}

// A controller that ends sends its clients away before it waits for them.
func TestDrain(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := synced(r, "ztunnel", kindWorkload)
		defer c.close()
		r.server.Drain()
		c.reader.Wait()
		if status.Code(c.err) != codes.Unavailable {
			t.Errorf("stream ended with %v", c.err)
		}
		late := r.raw("ztunnel")
		defer late.close()
		late.reader.Wait()
		if status.Code(late.err) != codes.Unavailable {
			t.Errorf("late stream ended with %v", late.err)
		}
	})
}
