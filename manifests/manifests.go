// Package manifests holds what installs Towpath: the Helm chart, the same chart
// rendered with its defaults (install.yaml), and the CRDs of Gateway API.
//
// The chart's templates keep to what text/template and the functions below
// offer, so that Render and Helm produce the same objects. The package may not
// know how objects get into a cluster.
package manifests

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"strconv"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

//go:embed towpath/Chart.yaml towpath/values.yaml towpath/templates/*.yaml
var chart embed.FS

//go:embed gateway-api/*.yaml
var gatewayAPI embed.FS

// order in which the templates are rendered; each is named, so that one that is
// forgotten fails a test instead of an installation.
var order = []string{"namespace", "controller-rbac", "controller", "node-agent", "ztunnel", "networkpolicies"}

// Values are the settings of an installation that people ask for; everything
// else keeps the chart's default.
type Values struct {
	// Namespace to install into; it is made.
	Namespace string
	// Image of all programs.
	Image string
	// TrustDomain of the mesh's identities.
	TrustDomain string
	// ClusterDomain is the DNS domain of the cluster.
	ClusterDomain string
	// OTLPEndpoint receives traces; empty turns them off.
	OTLPEndpoint string
	// TraceSampling is the share of new traces that is sampled, 0 to 1.
	TraceSampling float64
	// Replicas of the controller.
	Replicas int
	// LogLevel of all programs: debug, info, warn or error.
	LogLevel string
}

// Defaults returns the chart's defaults, with the image of that version; an
// empty version keeps the chart's own.
func Defaults(version string) Values {
	v := Values{
		Namespace: "towpath-system", Image: "ghcr.io/towpath-mesh/towpath:0.1.0",
		TrustDomain: "cluster.local", ClusterDomain: "cluster.local",
		TraceSampling: 1, Replicas: 2, LogLevel: "info",
	}
	if version != "" {
		repository, _, _ := strings.Cut(v.Image, ":")
		v.Image = repository + ":" + version
	}
	return v
}

// Render returns the objects of an installation as one stream of YAML documents.
func Render(v Values) ([]byte, error) {
	data, err := chartData(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, name := range order {
		file := path.Join("towpath/templates", name+".yaml")
		text, err := chart.ReadFile(file)
		if err != nil {
			return nil, err
		}
		t, err := template.New(name).Funcs(functions).Option("missingkey=error").Parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out.WriteString("---\n")
		var doc bytes.Buffer
		if err := t.Execute(&doc, data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out.WriteString(strings.Trim(doc.String(), "\n") + "\n")
	}
	return out.Bytes(), nil
}

// functions are those of Helm's that the templates use.
var functions = template.FuncMap{
	"quote": func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
}

// chartData is what Helm hands to templates, as far as ours read it.
func chartData(v Values) (map[string]any, error) {
	values := map[string]any{}
	if err := readYAML("towpath/values.yaml", &values); err != nil {
		return nil, err
	}
	set := func(value any, path ...string) {
		at := values
		for _, key := range path[:len(path)-1] {
			at = at[key].(map[string]any) //nolint:errcheck // our own file, covered by the tests
		}
		at[path[len(path)-1]] = value
	}
	set(true, "namespace", "create")
	set(v.Image, "image")
	set(v.TrustDomain, "mesh", "trustDomain")
	set(v.ClusterDomain, "mesh", "clusterDomain")
	set(v.OTLPEndpoint, "tracing", "endpoint")
	set(v.TraceSampling, "tracing", "sampling")
	set(v.Replicas, "controller", "replicas")
	set(v.LogLevel, "logLevel")
	return map[string]any{
		"Values":  values,
		"Release": map[string]any{"Namespace": v.Namespace},
	}, nil
}

func readYAML(file string, into any) error {
	text, err := chart.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// GatewayAPI returns the CRDs of Gateway API v1.6.3, of the channel "standard"
// or "experimental".
func GatewayAPI(channel string) ([]byte, error) {
	if channel != "standard" && channel != "experimental" {
		return nil, fmt.Errorf("gateway api channel %q: want standard or experimental", channel)
	}
	return gatewayAPI.ReadFile("gateway-api/" + channel + ".yaml")
}
