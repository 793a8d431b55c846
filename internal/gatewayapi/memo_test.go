package gatewayapi

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// TestTranslatorAgrees makes random edits and compares the Translator that has
// seen them all with one that has seen nothing.
func TestTranslatorAgrees(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	in := manyRoutes(60)
	var long Translator
	for step := range 300 {
		edit(r, &in)
		if got, want := long.Translate(in), Translate(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d:\n%s\n%s\nwant\n%s\n%s", step, routingText(got), statusText(got), routingText(want), statusText(want))
		}
	}
}

// edit replaces, adds or removes one object.
func edit(r *rand.Rand, in *Inputs) {
	in.HTTPRoutes, in.Services = slices.Clone(in.HTTPRoutes), slices.Clone(in.Services)
	i := r.IntN(len(in.HTTPRoutes))
	j := r.IntN(len(in.Services))
	switch r.IntN(7) {
	case 0: // another spec
		next := in.HTTPRoutes[i].DeepCopy()
		next.Generation++
		next.Spec.Rules = next.Spec.Rules[:1+r.IntN(len(next.Spec.Rules))]
		in.HTTPRoutes[i] = next
	case 1: // a backend elsewhere, perhaps nowhere
		next := in.HTTPRoutes[i].DeepCopy()
		next.Spec.Rules[0].BackendRefs[0].Name = gwv1.ObjectName(fmt.Sprintf("s%d", r.IntN(15)))
		in.HTTPRoutes[i] = next
	case 2:
		in.HTTPRoutes = slices.Delete(in.HTTPRoutes, i, i+1)
	case 3:
		in.HTTPRoutes = append(in.HTTPRoutes, routeNumber(1000+r.IntN(1000), in.Services[j]))
	case 4: // a Service's port
		next := in.Services[j].DeepCopy()
		next.Spec.Ports = []corev1.ServicePort{{Port: []int32{80, 81}[r.IntN(2)]}}
		in.Services[j] = next
	case 5: // a Service's label
		next := in.Services[j].DeepCopy()
		next.Labels = map[string]string{mesh.LabelWaypoint: []string{"", "none", "waypoint", "gone"}[r.IntN(4)]}
		in.Services[j] = next
	case 6: // a waypoint's readiness
		in.Proxies = map[mesh.ProxyKey]ProxyState{}
		for k := range 10 {
			in.Proxies[mesh.ProxyKey{Namespace: fmt.Sprintf("ns%d", k), Name: "waypoint"}] = ProxyState{EverReady: r.IntN(2) == 0}
		}
	}
}

func TestTranslatorKeepsWhatIsEqual(t *testing.T) {
	in := manyRoutes(60)
	var tr Translator
	first := tr.Translate(in)
	in.HTTPRoutes = slices.Clone(in.HTTPRoutes)
	edited := in.HTTPRoutes[7].DeepCopy()
	edited.Spec.Rules = edited.Spec.Rules[:1]
	in.HTTPRoutes[7] = edited
	second := tr.Translate(in)
	fresh := 0
	for i := range second.Tables {
		if second.Tables[i] != first.Tables[i] {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d tables made again for one edited route", fresh)
	}
}

func BenchmarkOneEdit(b *testing.B) {
	in := manyRoutes(5000)
	edited := in.HTTPRoutes[7].DeepCopy()
	edited.Spec.Rules = edited.Spec.Rules[:1]
	versions := []*gwv1.HTTPRoute{edited, in.HTTPRoutes[7]}
	var tr Translator
	before := tr.Translate(in).Tables
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		in.HTTPRoutes[7] = versions[i%2]
		after := tr.Translate(in).Tables
		if up, _ := DiffTables(before, after); len(up) != 1 {
			b.Fatalf("%d tables changed", len(up))
		}
		before = after
	}
}
