package configstream

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// enumSizes tells how many values the enumerations of the vocabularies have.
var enumSizes = map[reflect.Type]int{
	reflect.TypeFor[mesh.Tunnel]():        len(tunnels),
	reflect.TypeFor[mesh.AppProtocol]():   len(appProtocols),
	reflect.TypeFor[routing.ParentKind](): len(parentKinds),
	reflect.TypeFor[routing.Protocol]():   len(protocols),
	reflect.TypeFor[routing.RouteKind]():  len(routeKinds),
	reflect.TypeFor[routing.PathKind]():   len(pathKinds),
	reflect.TypeFor[routing.ValueKind]():  len(valueKinds),
}

// arbitrary returns a value with something in every field that there is, also
// in those that were added to the vocabulary yesterday.
func arbitrary[T any](t testing.TB, r *rand.Rand) *T {
	v := new(T)
	fill(t, r, reflect.ValueOf(v).Elem())
	return v
}

func fill(t testing.TB, r *rand.Rand, v reflect.Value) {
	switch v.Type() {
	case reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(arbitraryAddr(r)))
		return
	case reflect.TypeFor[spiffeid.ID]():
		if r.IntN(4) > 0 {
			v.Set(reflect.ValueOf(spiffeid.RequireFromString(fmt.Sprintf("spiffe://td/ns/n%d/sa/s", r.IntN(100)))))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, r, v.Field(i))
		}
	case reflect.Slice:
		if n := r.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			fill(t, r, v.Index(i))
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, r, v.Elem())
		}
	case reflect.String:
		v.SetString(arbitraryString(r))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8:
		n, ok := enumSizes[v.Type()]
		if !ok {
			t.Fatalf("%s is not among the enumerations of this test", v.Type())
		}
		v.SetUint(uint64(r.IntN(n)))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(r.Uint64() >> (64 - v.Type().Bits()))
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64() - r.Int64())
	default:
		t.Fatalf("cannot make a %s", v.Type())
	}
}

func arbitraryAddr(r *rand.Rand) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func arbitraryString(r *rand.Rand) string {
	alphabet := []rune("ab/%.-*é世\x00")
	s := make([]rune, r.IntN(6))
	for i := range s {
		s[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(s)
}
