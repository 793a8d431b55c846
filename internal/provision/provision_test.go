package provision

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// TestGoldens compares what is made of gateway.yaml with the other sections.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var gw gwv1.Gateway
	if err := yaml.UnmarshalStrict(a.Files[0].Data, &gw); err != nil {
		t.Fatal(err)
	}
	o := Waypoint(&gw, Options{
		Image: "ghcr.io/towpath-mesh/towpath:v1", ControllerAddress: "towpath-controller.towpath-system:15012",
		TrustDomain: "cluster.local", ClusterDomain: "cluster.local", OTLPEndpoint: "http://otel.obs:4317", TraceSampling: 0.01,
	})
	got := map[string]string{}
	for name, object := range map[string]any{
		"deployment.yaml": o.Deployment, "service.yaml": o.Service, "serviceaccount.yaml": o.ServiceAccount, "budget.yaml": o.Budget,
	} {
		got[name] = render(t, object)
	}
	for i, f := range a.Files[1:] {
		if *update {
			a.Files[i+1].Data = []byte(got[f.Name])
		} else if got[f.Name] != string(f.Data) {
			t.Errorf("%s is\n%s\nwant\n%s", f.Name, got[f.Name], f.Data)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func render(t *testing.T, object any) string {
	out, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("status: {}\n", "", "status:\n  loadBalancer: {}\n", "").Replace(string(out))
}

func TestName(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range []struct {
		in, want string
	}{
		{"waypoint", "waypoint"},
		{strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a", 64), ""},
		{strings.Repeat("a", 253), ""},
		{"1st", ""},
		{"a.b", ""},
		{"a-b.", ""},
	} {
		got := Name(c.in)
		if c.want != "" && got != c.want {
			t.Errorf("Name(%q) = %q, want %q", c.in, got, c.want)
		}
		if errs := validation.IsDNS1035Label(got); len(errs) > 0 {
			t.Errorf("Name(%q) = %q: %v", c.in, got, errs)
		}
		if seen[got] {
			t.Errorf("Name(%q) = %q, which another has", c.in, got)
		}
		seen[got] = true
	}
}

func TestGateway(t *testing.T) {
	gw := Gateway(mesh.ProxyKey{Namespace: "shop", Name: "waypoint"}, "HTTPRoute shop/web")
	l := gw.Spec.Listeners
	if gw.Spec.GatewayClassName != mesh.ClassWaypoint || len(l) != 1 || l[0].Port != mesh.PortHBONE || l[0].Protocol != mesh.ProtocolHBONE {
		t.Errorf("%+v", gw.Spec)
	}
	if gw.Labels[mesh.LabelManaged] == "" || gw.Annotations[AnnotationReason] != "HTTPRoute shop/web" {
		t.Errorf("%+v", gw.ObjectMeta)
	}
}
