package configstream

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"unique"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// The values of the vocabularies' enumerations and their numbers on the wire.
// The index is the vocabulary's value: its order may change, the wire's never.
var (
	tunnels = []configpb.Tunnel{
		mesh.TunnelNone:  configpb.Tunnel_TUNNEL_NONE,
		mesh.TunnelHBONE: configpb.Tunnel_TUNNEL_HBONE,
	}
	appProtocols = []configpb.AppProtocol{
		mesh.AppUnspecified: configpb.AppProtocol_APP_UNSPECIFIED,
		mesh.AppHTTP:        configpb.AppProtocol_APP_HTTP,
		mesh.AppH2C:         configpb.AppProtocol_APP_H2C,
		mesh.AppTLS:         configpb.AppProtocol_APP_TLS,
		mesh.AppTCP:         configpb.AppProtocol_APP_TCP,
	}
	parentKinds = []configpb.ParentKind{
		routing.ParentService: configpb.ParentKind_PARENT_SERVICE,
		routing.ParentGateway: configpb.ParentKind_PARENT_GATEWAY,
	}
	protocols = []configpb.Protocol{
		routing.ProtocolHTTP: configpb.Protocol_PROTOCOL_HTTP,
		routing.ProtocolTCP:  configpb.Protocol_PROTOCOL_TCP,
	}
	routeKinds = []configpb.RouteKind{
		routing.KindHTTPRoute: configpb.RouteKind_KIND_HTTP_ROUTE,
		routing.KindGRPCRoute: configpb.RouteKind_KIND_GRPC_ROUTE,
	}
	pathKinds = []configpb.PathKind{
		routing.PathPrefix: configpb.PathKind_PATH_PREFIX,
		routing.PathExact:  configpb.PathKind_PATH_EXACT,
		routing.PathRegex:  configpb.PathKind_PATH_REGEX,
	}
	valueKinds = []configpb.ValueKind{
		routing.ValueExact: configpb.ValueKind_VALUE_EXACT,
		routing.ValueRegex: configpb.ValueKind_VALUE_REGEX,
	}
)

// encoder turns vocabulary values into protobuf messages and keeps the first
// thing that has no form on the wire. Its zero value is ready.
type encoder struct{ err error }

// decoder turns protobuf messages into vocabulary values and keeps the first
// thing in them that is not valid. Its zero value is ready.
type decoder struct{ err error }

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func encodeEnum[V ~uint8, P ~int32](e *encoder, table []P, v V) P {
	if int(v) >= len(table) {
		e.fail("%T %d has no number on the wire", v, v)
		return 0
	}
	return table[v]
}

// decodeEnum refuses numbers that this program does not know: a guess would
// match, or let through, what the controller did not mean.
func decodeEnum[V ~uint8, P ~int32](d *decoder, table []P, p P) V {
	i := slices.Index(table, p)
	if i < 0 {
		d.fail("unknown %T %d", p, int32(p))
		return 0
	}
	return V(i)
}

// each converts the elements of a list; none become nil.
func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// list is the empty list as nil, so that a decoded value equals the encoded one.
func list[T any](in []T) []T {
	if len(in) == 0 {
		return nil
	}
	return in
}

// shared returns one copy of a string that many values have in common, such as
// the name of a node.
func shared(s string) string { return unique.Make(s).Value() }

func (d *decoder) port(p uint32) uint16 {
	if p > math.MaxUint16 {
		d.fail("port %d is out of range", p)
		return 0
	}
	return uint16(p)
}

func (d *decoder) integer(n int64) int {
	if n > math.MaxInt || n < math.MinInt {
		d.fail("number %d is out of range", n)
	}
	return int(n)
}

func (e *encoder) address(a netip.Addr) []byte {
	if !a.IsValid() || a.Zone() != "" {
		e.fail("address %s has no form on the wire", a)
	}
	return a.AsSlice()
}

func (d *decoder) address(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		d.fail("an address of %d bytes", len(b))
	}
	return a
}

func encodeIdentity(id spiffeid.ID) string { return id.String() }

func (d *decoder) identity(s string) spiffeid.ID {
	if s == "" {
		return spiffeid.ID{}
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		d.fail("identity %q: %w", s, err)
	}
	return id
}

// named encodes a pair of names; the empty pair takes no room.
func named(namespace, name string) *configpb.NamespacedName {
	if namespace == "" && name == "" {
		return nil
	}
	return &configpb.NamespacedName{Namespace: namespace, Name: name}
}

func serviceKey(n *configpb.NamespacedName) mesh.ServiceKey {
	return mesh.ServiceKey{Namespace: n.GetNamespace(), Name: n.GetName()}
}

func proxyKey(n *configpb.NamespacedName) mesh.ProxyKey {
	return mesh.ProxyKey{Namespace: n.GetNamespace(), Name: n.GetName()}
}
