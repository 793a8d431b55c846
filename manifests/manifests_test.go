package manifests

import (
	"bytes"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

var update = flag.Bool("update", false, "rewrite install.yaml")

// TestInstall: install.yaml is the chart with its defaults.
func TestInstall(t *testing.T) {
	rendered, err := Render(Defaults(""))
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte("# The Helm chart of this directory, rendered with its defaults.\n"), rendered...)
	if *update {
		if err := os.WriteFile("install.yaml", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("install.yaml is not the rendered chart; run: go test ./manifests -update")
	}
}

// TestDefaults: the defaults of Values are those of values.yaml.
func TestDefaults(t *testing.T) {
	v := Defaults("")
	with, err := chartData(v)
	if err != nil {
		t.Fatal(err)
	}
	var bare map[string]any
	if err := readYAML("towpath/values.yaml", &bare); err != nil {
		t.Fatal(err)
	}
	var meta struct{ Version, AppVersion string }
	if err := readYAML("towpath/Chart.yaml", &meta); err != nil {
		t.Fatal(err)
	}
	values := with["Values"].(map[string]any)
	for _, path := range []string{"image", "mesh.trustDomain", "mesh.clusterDomain", "tracing.endpoint", "tracing.sampling", "controller.replicas", "logLevel"} {
		if a, b := lookup(values, path), lookup(bare, path); !sameNumber(a, b) {
			t.Errorf("%s: %v in Defaults, %v in values.yaml", path, a, b)
		}
	}
	if !strings.HasSuffix(v.Image, ":"+meta.AppVersion) {
		t.Errorf("image %s is not of the chart's appVersion %s", v.Image, meta.AppVersion)
	}
	if got := Defaults("1.2.3").Image; got != "ghcr.io/towpath-mesh/towpath:1.2.3" {
		t.Errorf("image of version 1.2.3 is %s", got)
	}
}

func lookup(values map[string]any, path string) any {
	first, rest, more := strings.Cut(path, ".")
	if !more {
		return values[first]
	}
	return lookup(values[first].(map[string]any), rest)
}

func sameNumber(a, b any) bool {
	if i, ok := a.(int); ok {
		a = float64(i)
	}
	return a == b
}

// TestTemplates: every file is rendered, and every document has a kind and a
// name, and is in the namespace asked for if it is in any.
func TestTemplates(t *testing.T) {
	entries, err := chart.ReadDir("towpath/templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".yaml"); !slices.Contains(order, name) {
			t.Errorf("template %s is not in the order", e.Name())
		}
	}
	v := Defaults("")
	v.Namespace = "elsewhere"
	rendered, err := Render(v)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(rendered, []byte("towpath-system")) || bytes.Contains(rendered, []byte("<no value>")) {
		t.Error("the namespace is fixed somewhere, or a value is missing")
	}
	for _, o := range documents(t, rendered) {
		meta, _ := o["metadata"].(map[string]any)
		if o["kind"] == nil || meta["name"] == nil {
			t.Errorf("document without kind or name: %v", o)
		}
		if ns := meta["namespace"]; ns != nil && ns != "elsewhere" {
			t.Errorf("%v %v is in namespace %v", o["kind"], meta["name"], ns)
		}
		labels, _ := meta["labels"].(map[string]any)
		if labels["app.kubernetes.io/part-of"] != "towpath" {
			t.Errorf("%v %v lacks the label app.kubernetes.io/part-of", o["kind"], meta["name"])
		}
	}
}

func documents(t *testing.T, stream []byte) []map[string]any {
	t.Helper()
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	var out []map[string]any
	for {
		var o map[string]any
		if err := dec.Decode(&o); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
}

func TestGatewayAPI(t *testing.T) {
	for _, channel := range []string{"standard", "experimental"} {
		stream, err := GatewayAPI(channel)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, o := range documents(t, stream) {
			meta := o["metadata"].(map[string]any)
			found = found || meta["name"] == "httproutes.gateway.networking.k8s.io"
			if a, ok := meta["annotations"].(map[string]any); ok && o["kind"] == "CustomResourceDefinition" && a["gateway.networking.k8s.io/channel"] != channel {
				t.Errorf("%v is of channel %v, not %s", meta["name"], a["gateway.networking.k8s.io/channel"], channel)
			}
		}
		if !found {
			t.Errorf("channel %s has no HTTPRoute", channel)
		}
	}
	if _, err := GatewayAPI("nightly"); err == nil {
		t.Error("an unknown channel was accepted")
	}
}
