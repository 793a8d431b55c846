package gatewayapi

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/yaml"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// TestGoldens runs each testdata/*.txtar: input.yaml holds the objects (a
// GatewayClass towpath-waypoint is there unless it has one itself), proxies one
// line for each proxy ("namespace/name ready|was-ready|starting [addresses]"),
// routing.txt and status.txt what comes out.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			golden(t, file)
		})
	}
}

func golden(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := readInputs(t, archive)
	first := Translate(in)
	got := map[string]string{"routing.txt": routingText(first), "status.txt": statusText(first)}
	for i := range uint64(5) { // the order of the inputs says nothing
		shuffled := shuffle(in, rand.New(rand.NewPCG(i, 1)))
		again := Translate(shuffled)
		if routingText(again) != got["routing.txt"] || statusText(again) != got["status.txt"] {
			t.Errorf("shuffled inputs give another output:\n%s\n%s", routingText(again), statusText(again))
		}
	}
	if *update {
		rewrite(t, file, archive, got)
		return
	}
	for _, name := range []string{"routing.txt", "status.txt"} {
		want := string(section(archive, name))
		if strings.TrimSpace(got[name]) != strings.TrimSpace(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got[name], want)
		}
	}
	if lines := bytes.Count(txtar.Format(archive), []byte("\n")); lines > 120 {
		t.Errorf("%d lines: make it two goldens", lines)
	}
}

func section(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func rewrite(t *testing.T, file string, a *txtar.Archive, got map[string]string) {
	a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { _, ok := got[f.Name]; return ok })
	for _, name := range []string{"routing.txt", "status.txt"} {
		a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readInputs(t *testing.T, a *txtar.Archive) Inputs {
	in := Inputs{
		TrustDomain:   spiffeid.RequireTrustDomainFromString("cluster.local"),
		BundleVersion: consts.BundleVersion,
		Proxies:       readProxies(t, string(section(a, "proxies"))),
	}
	for _, doc := range strings.Split(string(section(a, "input.yaml")), "\n---\n") {
		var head metav1.TypeMeta
		unmarshal(t, doc, &head)
		switch head.Kind {
		case "GatewayClass":
			in.GatewayClasses = append(in.GatewayClasses, into[gwv1.GatewayClass](t, doc))
		case "Gateway":
			in.Gateways = append(in.Gateways, into[gwv1.Gateway](t, doc))
		case "HTTPRoute":
			in.HTTPRoutes = append(in.HTTPRoutes, into[gwv1.HTTPRoute](t, doc))
		case "GRPCRoute":
			in.GRPCRoutes = append(in.GRPCRoutes, into[gwv1.GRPCRoute](t, doc))
		case "Service":
			in.Services = append(in.Services, into[corev1.Service](t, doc))
		case "Namespace":
			in.Namespaces = append(in.Namespaces, into[corev1.Namespace](t, doc))
		default:
			t.Fatalf("unknown kind %q in\n%s", head.Kind, doc)
		}
	}
	if len(in.GatewayClasses) == 0 {
		in.GatewayClasses = []*gwv1.GatewayClass{{
			ObjectMeta: metav1.ObjectMeta{Name: mesh.ClassWaypoint},
			Spec:       gwv1.GatewayClassSpec{ControllerName: mesh.ControllerName},
		}}
	}
	return in
}

func unmarshal(t *testing.T, doc string, into any) {
	if err := yaml.Unmarshal([]byte(doc), into); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
}

func into[T any](t *testing.T, doc string) *T {
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return out
}

func readProxies(t *testing.T, text string) map[mesh.ProxyKey]ProxyState {
	out := map[mesh.ProxyKey]ProxyState{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		namespace, name, ok := strings.Cut(fields[0], "/")
		if !ok || len(fields) < 2 {
			t.Fatalf("bad line %q", line)
		}
		out[mesh.ProxyKey{Namespace: namespace, Name: name}] = ProxyState{
			Ready: fields[1] == "ready", EverReady: fields[1] != "starting", Addresses: fields[2:],
		}
	}
	return out
}

func shuffle(in Inputs, r *rand.Rand) Inputs {
	mix(r, &in.GatewayClasses)
	mix(r, &in.Gateways)
	mix(r, &in.HTTPRoutes)
	mix(r, &in.GRPCRoutes)
	mix(r, &in.Services)
	mix(r, &in.Namespaces)
	return in
}

func mix[T any](r *rand.Rand, list *[]T) {
	*list = slices.Clone(*list)
	r.Shuffle(len(*list), func(i, j int) { (*list)[i], (*list)[j] = (*list)[j], (*list)[i] })
}

func routingText(r Result) string {
	var out strings.Builder
	for _, t := range r.Tables {
		out.WriteString(t.String())
	}
	for _, key := range slices.SortedFunc(maps.Keys(r.Bindings), compareServices) {
		b := r.Bindings[key]
		for _, w := range b.Waypoints {
			clients, ports := "all", "all"
			if w.ClientNamespace != "" {
				clients = w.ClientNamespace
			}
			if len(w.Ports) > 0 {
				ports = fmt.Sprint(w.Ports)
			}
			fmt.Fprintf(&out, "bind %s to %s: clients %s, ports %s\n", key, w.Waypoint, clients, ports)
		}
		for _, id := range b.Speakers {
			fmt.Fprintf(&out, "speaker for %s: %s\n", key, id)
		}
	}
	for _, w := range r.Wanted {
		fmt.Fprintf(&out, "want %s: %s\n", w.Key, w.Reason)
	}
	for _, k := range r.Obsolete {
		fmt.Fprintf(&out, "obsolete %s\n", k)
	}
	for _, gw := range r.Provision {
		fmt.Fprintf(&out, "provision %s\n", proxyKey(gw))
	}
	return out.String()
}

func statusText(r Result) string {
	var out strings.Builder
	ids := slices.SortedFunc(maps.Keys(r.Routes), func(a, b RouteID) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, id := range ids {
		if len(r.Routes[id]) == 0 {
			fmt.Fprintf(&out, "%s %s/%s: remove ours\n", id.Kind, id.Namespace, id.Name)
		}
		for _, p := range r.Routes[id] {
			fmt.Fprintf(&out, "%s %s/%s under %s\n", id.Kind, id.Namespace, id.Name, refText(p.ParentRef))
			conditionText(&out, "  ", p.Conditions)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(r.Gateways), compareProxies) {
		s := r.Gateways[key]
		fmt.Fprintf(&out, "Gateway %s", key)
		for _, a := range s.Addresses {
			fmt.Fprintf(&out, " %s", a.Value)
		}
		out.WriteString("\n")
		conditionText(&out, "  ", s.Conditions)
		for _, l := range s.Listeners {
			fmt.Fprintf(&out, "  listener %s, %d routes\n", l.Name, l.AttachedRoutes)
			conditionText(&out, "    ", l.Conditions)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Classes)) {
		if s := r.Classes[name]; len(r.Classes) > 1 || s.Conditions[0].Status != metav1.ConditionTrue {
			fmt.Fprintf(&out, "GatewayClass %s, %d features\n", name, len(s.SupportedFeatures))
			conditionText(&out, "  ", s.Conditions)
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&out, "problem: %s\n", p)
	}
	return out.String()
}

func refText(r gwv1.ParentReference) string {
	out := string(deref(r.Kind)) + " "
	if r.Namespace != nil {
		out += string(*r.Namespace) + "/"
	}
	out += string(r.Name)
	if r.SectionName != nil {
		out += " " + string(*r.SectionName)
	}
	if r.Port != nil {
		out += fmt.Sprintf(":%d", *r.Port)
	}
	return out
}

func conditionText(out *strings.Builder, indent string, list []metav1.Condition) {
	for _, c := range list {
		fmt.Fprintf(out, "%s%s=%s %s @%d: %s\n", indent, c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
}
