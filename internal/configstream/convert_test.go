package configstream

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// roundTrip sends arbitrary values through the wire form.
func roundTrip[T any](t *testing.T, encode func(*T) (resource, error), decode func([]byte) (*T, error)) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		in := arbitrary[T](t, r)
		if w, ok := any(in).(*mesh.Workload); ok && w.ID == "" {
			w.ID = "x"
		}
		res, err := encode(in)
		if err != nil {
			t.Fatalf("encode %+v: %v", in, err)
		}
		out, err := decode(res.wire.GetResource().GetValue())
		if err != nil {
			t.Fatalf("decode %+v: %v", in, err)
		}
		if !reflect.DeepEqual(in, out) {
			t.Fatalf("lost on the way:\n in %+v\nout %+v", in, out)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Run("Workload", func(t *testing.T) { roundTrip(t, workloadResource, decodeWorkload) })
	t.Run("Service", func(t *testing.T) { roundTrip(t, serviceResource, decodeService) })
	t.Run("EndpointSlice", func(t *testing.T) { roundTrip(t, sliceResource, decodeSlice) })
	t.Run("Table", func(t *testing.T) { roundTrip(t, tableResource, decodeTable) })
}

// The version is the content's: equal for equal values, another one for any
// other value.
func TestVersionIsOfTheContent(t *testing.T) {
	a := &mesh.Workload{ID: "a", Name: "x"}
	same := &mesh.Workload{ID: "a", Name: "x"}
	other := &mesh.Workload{ID: "a", Name: "y"}
	versions := make([]string, 3)
	for i, w := range []*mesh.Workload{a, same, other} {
		r, err := workloadResource(w)
		if err != nil {
			t.Fatal(err)
		}
		versions[i] = r.wire.GetVersion()
	}
	if versions[0] != versions[1] || versions[0] == versions[2] {
		t.Errorf("versions %q", versions)
	}
}

func TestNoFormOnTheWire(t *testing.T) {
	tests := map[string]func() error{
		"unknown tunnel": func() error {
			_, err := workloadResource(&mesh.Workload{ID: "a", Tunnel: 99})
			return err
		},
		"endpoint without an address": func() error {
			_, err := sliceResource(&mesh.EndpointSlice{Endpoints: []mesh.Endpoint{{}}})
			return err
		},
		"bytes that are no text": func() error {
			_, err := serviceResource(&mesh.Service{Hostname: "\xff"})
			return err
		},
	}
	for name, encode := range tests {
		if encode() == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// What a newer or broken server may send must be refused as a whole resource,
// never taken for something else.
func TestDecodeRefuses(t *testing.T) {
	table := func(edit func(*configpb.Listener)) proto.Message {
		l := &configpb.Listener{Rules: []*configpb.Rule{{Matches: []*configpb.Match{{}}}}}
		edit(l)
		return &configpb.Table{Listeners: []*configpb.Listener{l}}
	}
	tests := []struct {
		name   string
		in     proto.Message
		decode func([]byte) error
		want   string
	}{
		{"workload without id", &configpb.Workload{}, ignore(decodeWorkload), "without an id"},
		{"identity", &configpb.Workload{Id: "a", Identity: "http://x"}, ignore(decodeWorkload), "identity"},
		{"tunnel", &configpb.Workload{Id: "a", Tunnel: 7}, ignore(decodeWorkload), "unknown"},
		{"address", &configpb.Workload{Id: "a", Addresses: [][]byte{{1, 2, 3}}}, ignore(decodeWorkload), "3 bytes"},
		{"no address", &configpb.EndpointSlice{Endpoints: []*configpb.Endpoint{{}}}, ignore(decodeSlice), "0 bytes"},
		{"port", &configpb.EndpointSlice{Ports: []*configpb.EndpointPort{{Port: 70000}}}, ignore(decodeSlice), "70000"},
		{"path kind", table(func(l *configpb.Listener) { l.Rules[0].Matches[0].PathKind = 9 }), ignore(decodeTable), "unknown"},
		{"protocol", table(func(l *configpb.Listener) { l.Protocol = 9 }), ignore(decodeTable), "unknown"},
		{"listener port", table(func(l *configpb.Listener) { l.Port = 1 << 20 }), ignore(decodeTable), "out of range"},
	}
	for _, tt := range tests {
		b, err := proto.Marshal(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.decode(b); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func ignore[T any](decode func([]byte) (*T, error)) func([]byte) error {
	return func(b []byte) error { _, err := decode(b); return err }
}

// A port protocol of a newer controller is opaque to this program.
func TestUnknownAppProtocolIsTCP(t *testing.T) {
	b, err := proto.Marshal(&configpb.Service{Ports: []*configpb.ServicePort{{Port: 1, Protocol: 77}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := decodeService(b)
	if err != nil || s.Ports[0].Protocol != mesh.AppTCP {
		t.Errorf("got %+v, %v", s, err)
	}
}

// A filter of a kind that this program does not know must not be skipped.
func TestUnknownFilterIsInvalid(t *testing.T) {
	f := &configpb.Filter{}
	f.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 100, protowire.BytesType), nil))
	b, err := proto.Marshal(&configpb.Table{Listeners: []*configpb.Listener{{Rules: []*configpb.Rule{{Filters: []*configpb.Filter{f}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	table, err := decodeTable(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := table.Listeners[0].Rules[0].Filters[0].Invalid; got != unknownFilter {
		t.Errorf("Invalid = %q", got)
	}
}

func TestNamesAreDistinct(t *testing.T) {
	keys := []routing.TableKey{
		{Proxy: mesh.ProxyKey{Namespace: "a", Name: "b"}, Parent: routing.Parent{Namespace: "c", Name: "d"}},
		{Proxy: mesh.ProxyKey{Namespace: "a", Name: "b"}, Parent: routing.Parent{Kind: routing.ParentGateway, Namespace: "c", Name: "d"}},
		{Proxy: mesh.ProxyKey{Namespace: "a", Name: "b/service"}, Parent: routing.Parent{Namespace: "", Name: "d"}},
		{Proxy: mesh.ProxyKey{Namespace: "a", Name: "b%2Fservice"}, Parent: routing.Parent{Namespace: "", Name: "d"}},
		{Proxy: mesh.ProxyKey{Namespace: "a/b", Name: ""}, Parent: routing.Parent{Namespace: "c", Name: "d"}},
	}
	seen := map[string]bool{}
	for _, k := range keys {
		if n := tableName(k); seen[n] {
			t.Errorf("name %q twice", n)
		} else {
			seen[n] = true
		}
	}
}

// FuzzDecode gives foreign bytes to the decoders. What they accept must have a
// wire form again, and mean the same there.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 8 {
		w := arbitrary[mesh.Workload](f, r)
		w.ID = "x"
		seed(f, kindWorkload, w, workloadResource)
		seed(f, kindSlice, arbitrary[mesh.EndpointSlice](f, r), sliceResource)
		seed(f, kindService, arbitrary[mesh.Service](f, r), serviceResource)
		seed(f, kindTable, arbitrary[routing.Table](f, r), tableResource)
	}
	f.Fuzz(func(t *testing.T, k uint8, b []byte) {
		switch kind(k % uint8(kindCount)) {
		case kindWorkload:
			again(t, b, workloadResource, decodeWorkload)
		case kindSlice:
			again(t, b, sliceResource, decodeSlice)
		case kindService:
			again(t, b, serviceResource, decodeService)
		case kindTable:
			again(t, b, tableResource, decodeTable)
		}
	})
}

func seed[T any](f *testing.F, k kind, v *T, encode func(*T) (resource, error)) {
	r, err := encode(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(k), r.wire.GetResource().GetValue())
}

func again[T any](t *testing.T, b []byte, encode func(*T) (resource, error), decode func([]byte) (*T, error)) {
	v, err := decode(b)
	if err != nil {
		return
	}
	r, err := encode(v)
	if err != nil {
		t.Fatalf("decoded, but not to be encoded: %+v: %v", v, err)
	}
	v2, err := decode(r.wire.GetResource().GetValue())
	if err != nil || !reflect.DeepEqual(v, v2) {
		t.Fatalf("second time %+v, %v; first time %+v", v2, err, v)
	}
}
