package configstream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// proxy is a client of the role RoleProxy with what it was given. Its fields
// may be read when the bubble is settled.
type proxy struct {
	worlds  mesh.Store
	updates []mesh.Update
	tables  map[routing.TableKey]*routing.Table
	synced  int
	handed  int // tables and removals
	refuse  func(*routing.Table) error
}

func (p *proxy) options() ClientOptions {
	p.tables = map[routing.TableKey]*routing.Table{}
	return ClientOptions{
		Token: token("wp"), Role: RoleProxy, Node: "n1", Version: "v1", Worlds: &p.worlds,
		OnMesh:   func(u mesh.Update) { p.updates = append(p.updates, u) },
		OnTables: p.onTables,
		OnSynced: func() { p.synced++ },
	}
}

func (p *proxy) onTables(up []*routing.Table, removed []routing.TableKey) error {
	bad := TableErrors{}
	p.handed += len(up) + len(removed)
	for _, t := range up {
		if p.refuse != nil && p.refuse(t) != nil {
			bad[t.Key] = p.refuse(t)
			continue
		}
		p.tables[t.Key] = t
	}
	for _, k := range removed {
		delete(p.tables, k)
	}
	if len(bad) > 0 {
		return bad
	}
	return nil
}

func (p *proxy) workloads() (n int) {
	for range p.worlds.Load().Workloads() {
		n++
	}
	return n
}

func fillWeb(s *Server) {
	s.PublishMesh(mesh.Update{
		Workloads: []*mesh.Workload{workload("p1", "n1"), workload("p2", "n2")},
		Services:  []*mesh.Service{service("web")},
		Slices:    []*mesh.EndpointSlice{slice("web")},
	})
	s.PublishTables([]*routing.Table{table("wp", "web")}, nil)
}

func TestClientSyncsAndFollows(t *testing.T) {
	inBubble(t, func(r *rig) {
		var p proxy
		fillWeb(r.server)
		c, stop := r.run(p.options())
		defer stop()
		settle()
		if c.Synced() || p.synced != 0 || p.workloads() != 0 {
			t.Error("synced with a server that is not")
		}
		r.server.SetSynced()
		settle()
		if !c.Synced() || p.synced != 1 || p.workloads() != 2 || len(p.tables) != 1 {
			t.Fatalf("synced %d times, %d workloads, %d tables", p.synced, p.workloads(), len(p.tables))
		}
		if ps := r.server.Proxies(); len(ps) != 1 || ps[0].Version != "v1" || len(ps[0].Types) != 4 || ps[0].Types[3].Acked < ps[0].Types[3].Current {
			t.Errorf("status %+v", ps)
		}

		r.server.PublishMesh(mesh.Update{RemovedWorkloads: []mesh.WorkloadID{"p2"}})
		r.server.PublishTables(nil, []routing.TableKey{tableKey("wp", "web")})
		settle()
		if p.workloads() != 1 || len(p.tables) != 0 || p.synced != 1 {
			t.Errorf("%d workloads, %d tables, synced %d times", p.workloads(), len(p.tables), p.synced)
		}
	})
}

// Each response is one Apply: readers see all of it or nothing.
func TestClientAppliesResponsesWhole(t *testing.T) {
	inBubble(t, func(r *rig) {
		var p proxy
		fillWeb(r.server)
		r.server.SetSynced()
		_, stop := r.run(p.options())
		defer stop()
		settle()
		if len(p.updates) != 3 || len(p.updates[0].Workloads) != 2 {
			t.Errorf("updates %+v", p.updates)
		}
	})
}

// A new controller with the same content has nothing to send, and the config
// stays while there is none.
func TestClientResumesAfterRestart(t *testing.T) {
	inBubble(t, func(r *rig) {
		var p proxy
		fillWeb(r.server)
		r.server.SetSynced()
		c, stop := r.run(p.options())
		defer stop()
		settle()
		before := len(p.updates)
		r.stop()
		settle()
		pass(time.Hour) // in which the client tries again and again
		if p.workloads() != 2 || len(p.tables) != 1 {
			t.Fatalf("%d workloads, %d tables after an hour without a controller", p.workloads(), len(p.tables))
		}

		s := newTestServer()
		r.restart(s)
		pass(time.Minute)
		if p.workloads() != 2 || len(s.Proxies()) != 1 {
			t.Fatalf("%d workloads with a controller that knows nothing yet, %d streams", p.workloads(), len(s.Proxies()))
		}
		fillWeb(s)
		s.SetSynced()
		settle()
		if len(p.updates) != before || p.handed != 1 {
			t.Errorf("sent again: %+v, %d tables", p.updates[before:], p.handed-1)
		}
		if ps := s.Proxies(); ps[0].Types[0].Acked < ps[0].Types[0].Current {
			t.Errorf("status %+v", ps[0])
		}
		r.server.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{workload("p3", "n")}})
		settle()
		if p.workloads() != 3 || p.synced != 1 || !c.Synced() {
			t.Errorf("%d workloads after a change, synced %d times", p.workloads(), p.synced)
		}
	})
}

// What has gone while there was no stream goes when there is one again.
func TestClientLearnsOfRemovalsAfterRestart(t *testing.T) {
	inBubble(t, func(r *rig) {
		var p proxy
		fillWeb(r.server)
		r.server.SetSynced()
		_, stop := r.run(p.options())
		defer stop()
		settle()
		s := newTestServer()
		s.SetSynced()
		r.restart(s)
		pass(time.Minute)
		if p.workloads() != 0 || len(p.tables) != 0 {
			t.Errorf("%d workloads, %d tables", p.workloads(), len(p.tables))
		}
	})
}

func TestRefusedTable(t *testing.T) {
	inBubble(t, func(r *rig) {
		p := proxy{refuse: func(t *routing.Table) error {
			if t.ClientNamespace == "bad" {
				return errors.New("not for me")
			}
			return nil
		}}
		fillWeb(r.server)
		r.server.SetSynced()
		_, stop := r.run(p.options())
		defer stop()
		settle()
		bad := table("wp", "web")
		bad.ClientNamespace = "bad"
		r.server.PublishTables([]*routing.Table{bad, table("wp", "good")}, nil)
		settle()
		if len(p.tables) != 2 || p.tables[bad.Key].ClientNamespace != "" {
			t.Errorf("tables %v: the last good one must stay, and the other one come", p.tables)
		}
		nack := r.server.Proxies()[0].LastNACK
		if nack == nil || nack.Message != "a/wp/service/a/web: not for me" {
			t.Fatalf("NACK %+v", nack)
		}

		// A new stream must not claim that the refused one was taken.
		s := newTestServer()
		fillWeb(s)
		s.PublishTables([]*routing.Table{bad, table("wp", "good")}, nil)
		s.SetSynced()
		r.restart(s)
		pass(time.Minute)
		if nack := s.Proxies()[0].LastNACK; nack == nil || !strings.Contains(nack.Message, "web: not for me") || strings.Contains(nack.Message, "good") {
			t.Errorf("NACK after a restart %+v", nack)
		}
	})
}

func TestRefusedTablesAllTogether(t *testing.T) {
	in := newInbox(ClientOptions{Role: RoleProxy, OnTables: func([]*routing.Table, []routing.TableKey) error {
		return errors.New("full")
	}})
	bad := in.apply(kindTable, response(t, kindTable, table("wp", "a"), table("wp", "b")))
	if len(bad) != 2 || len(in.versions(kindTable)) != 0 {
		t.Errorf("refused %v, kept %v", bad, in.versions(kindTable))
	}
}

func response(t *testing.T, k kind, tables ...*routing.Table) *discoverypb.DeltaDiscoveryResponse {
	t.Helper()
	resp := &discoverypb.DeltaDiscoveryResponse{TypeUrl: k.typeURL()}
	for _, v := range tables {
		res, err := tableResource(v)
		if err != nil {
			t.Fatal(err)
		}
		resp.Resources = append(resp.Resources, res.wire)
	}
	return resp
}

// One resource that cannot be read is refused by its name; the others of the
// response are taken.
func TestUnreadableResource(t *testing.T) {
	reg := prometheus.NewRegistry()
	var p proxy
	o := p.options()
	o.Registry = reg
	c := NewClient(o)
	good, err := workloadResource(workload("good", "n"))
	if err != nil {
		t.Fatal(err)
	}
	ack := c.take(&discoverypb.DeltaDiscoveryResponse{
		TypeUrl: kindWorkload.typeURL(), Nonce: "7",
		Resources: []*discoverypb.Resource{
			{Name: "broken", Resource: &anypb.Any{Value: []byte{0xff}}},
			good.wire,
		},
	})
	if ack.GetResponseNonce() != "7" || !strings.HasPrefix(ack.GetErrorDetail().GetMessage(), "broken: ") {
		t.Errorf("answer %v", ack)
	}
	if p.workloads() != 1 {
		t.Errorf("%d workloads", p.workloads())
	}
	if v := c.inbox.versions(kindWorkload); len(v) != 1 || v["good"] != good.wire.GetVersion() {
		t.Errorf("versions %v", v)
	}
	if n := metric(t, reg, "towpath_config_nacks_total"); n != 1 {
		t.Errorf("%v NACKs counted", n)
	}
}

// metric returns the value of the first counter or gauge of that name.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestUnknownTypeFromTheServer(t *testing.T) {
	ack := NewClient(ClientOptions{}).take(&discoverypb.DeltaDiscoveryResponse{TypeUrl: "x", Nonce: "1"})
	if ack.GetErrorDetail() == nil || ack.GetTypeUrl() != "x" || ack.GetResponseNonce() != "1" {
		t.Errorf("answer %v", ack)
	}
}

func TestConnectedAndAge(t *testing.T) {
	inBubble(t, func(r *rig) {
		var p proxy
		reg := prometheus.NewRegistry()
		o := p.options()
		o.Registry = reg
		r.server.SetSynced()
		_, stop := r.run(o)
		defer stop()
		gauge := func(name string) float64 { settle(); return metric(t, reg, name) }
		if gauge("towpath_config_connected") != 1 || gauge("towpath_config_age_seconds") != 0 {
			t.Error("not connected")
		}
		r.stop()
		pass(90 * time.Second)
		if c, age := gauge("towpath_config_connected"), gauge("towpath_config_age_seconds"); c != 0 || age != 90 {
			t.Errorf("connected %v, age %v, 90 s after the server went", c, age)
		}
	})
}

func TestPause(t *testing.T) {
	var p pause
	for i := range 100 {
		base := min(minPause<<min(i, 20), maxPause)
		if d := p.next(); d < base*3/4 || d > base*5/4 {
			t.Fatalf("pause %d is %s, want about %s", i, d, base)
		}
	}
	p.reset()
	if d := p.next(); d > 2*minPause {
		t.Errorf("pause after a reset: %s", d)
	}
}

func TestReport(t *testing.T) {
	inBubble(t, func(r *rig) {
		var from Peer
		var got []PodReport
		fail := error(nil)
		s := NewServer(ServerOptions{Authenticate: peers.Authenticate, OnReport: func(_ context.Context, p Peer, pods []PodReport) error {
			from, got = p, pods
			return fail
		}})
		r.restart(s)
		agent, stop := r.run(ClientOptions{Token: token("agent1"), Role: RoleNodeAgent})
		defer stop()
		want := PodReport{ID: "p1", Enrolled: true, Reason: "Captured", Message: "ok"}
		if err := agent.Report(r.ctx, []PodReport{want}); err != nil {
			t.Fatal(err)
		}
		if from.Node != "n1" || len(got) != 1 || got[0] != want {
			t.Errorf("from %+v: %+v", from, got)
		}
		fail = status.Error(codes.PermissionDenied, "not your pod")
		if err := agent.Report(r.ctx, nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("error %v", err)
		}
		zt, stopZT := r.run(ClientOptions{Token: token("ztunnel"), Role: RoleZTunnel})
		defer stopZT()
		fail = nil
		if err := zt.Report(r.ctx, nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a ztunnel's report: %v", err)
		}
	})
}

func TestIncompleteOptions(t *testing.T) {
	if err := NewClient(ClientOptions{Token: token("x")}).Run(t.Context()); err == nil {
		t.Error("ran without TLS")
	}
	if err := NewLocal(nil).Client(ClientOptions{Role: RoleProxy}).Run(t.Context()); err == nil {
		t.Error("ran without OnTables")
	}
}
