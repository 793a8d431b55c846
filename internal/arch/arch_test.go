package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/towpath-mesh/towpath"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

// rel is the package's path inside the module.
func (p pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

var packages = sync.OnceValues(func() ([]pkg, error) {
	out, err := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Doc,Imports,Deps,GoFiles", module+"/...").Output()
	if err != nil {
		return nil, err
	}
	var list []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
})

func load(t *testing.T) []pkg {
	t.Helper()
	list, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return list
}

// ban forbids packages to reach others. A path ending in "/" stands for
// everything below it; paths of our own module are relative.
type ban struct {
	// of names the packages that are bound; but lists exceptions.
	of, but []string
	// never is what they may not import; deep looks through imports too.
	never []string
	deep  bool
	why   string
}

var bans = []ban{
	{
		of:    []string{"internal/mesh", "internal/routing", "internal/registry", "internal/gatewayapi", "internal/provision", "waypoint/match", "waypoint/filter"},
		never: []string{"context", "log/slog", "log", "google.golang.org/grpc", "google.golang.org/protobuf/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "net/http"},
		why:   "pure packages have no I/O, no clock and no wire format",
	},
	{
		of:    []string{""},
		but:   []string{"internal/controlplane", "internal/towctl"},
		never: []string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime", "sigs.k8s.io/controller-runtime/"},
		why:   "only the control plane and towctl talk to Kubernetes",
	},
	{
		of:    []string{"ztunnel", "ztunnel/", "waypoint", "waypoint/", "cmd/ztunnel", "cmd/waypoint", "cmd/node-agent", "cmd/towpath-cni"},
		never: []string{"k8s.io/client-go/", "k8s.io/api/", "sigs.k8s.io/", "internal/controlplane", "internal/gatewayapi", "internal/registry", "internal/provision"},
		deep:  true,
		why:   "no Kubernetes in the data path",
	},
	{
		of:    []string{"ztunnel", "ztunnel/", "cmd/ztunnel", "cmd/node-agent", "cmd/towpath-cni"},
		never: []string{"waypoint", "waypoint/"},
		deep:  true,
		why:   "the L4 half lives alone",
	},
	{
		of:    []string{"waypoint", "waypoint/", "cmd/waypoint"},
		never: []string{"ztunnel", "ztunnel/"},
		deep:  true,
		why:   "the L7 proxy is no node proxy",
	},
	{
		of:    []string{"internal/mesh"},
		never: []string{"internal/routing"},
		deep:  true,
		why:   "the L4 half must be able to live without the L7 half",
	},
	{
		of:    []string{"internal/hbone"},
		never: []string{"internal/mesh", "internal/routing", "internal/configstream"},
		why:   "the tunnel knows identities and addresses, not the mesh",
	},
	{
		of:    []string{"identity", "identity/"},
		never: []string{"internal/", "k8s.io/", "sigs.k8s.io/", "ztunnel", "waypoint"},
		why:   "identity is given what it needs through its own interfaces",
	},
	{
		of:    []string{"waypoint/match", "waypoint/filter", "waypoint/upstream", "waypoint"},
		never: []string{"net/http", "golang.org/x/net/http2"},
		why:   "the pipeline works on wire's message type, so that its engines can be replaced",
	},
}

func TestImports(t *testing.T) {
	list := load(t)
	for _, b := range bans {
		for _, p := range list {
			if !matchesAny(p.rel(), b.of) || matchesAny(p.rel(), b.but) {
				continue
			}
			imports := p.Imports
			if b.deep {
				imports = p.Deps
			}
			for _, imp := range imports {
				if matchesAny(own(imp), b.never) {
					t.Errorf("%s imports %s: %s", p.rel(), own(imp), b.why)
				}
			}
		}
	}
}

// TestRulesName fails when a rule names a package of ours that does not exist
// any more, and so has stopped to forbid anything.
func TestRulesName(t *testing.T) {
	list := load(t)
	for _, b := range bans {
		for _, name := range slices.Concat(b.of, b.but, b.never) {
			if name == "" || !ours(name) {
				continue
			}
			if !slices.ContainsFunc(list, func(p pkg) bool { return matches(p.rel(), name) }) {
				t.Errorf("rule %q names %q, which does not exist", b.why, name)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range load(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}

// TestPrivateProtobufs: generated types stay where they are translated.
func TestPrivateProtobufs(t *testing.T) {
	allowed := []string{"internal/configstream", "internal/configstream/", "identity/"}
	for _, p := range load(t) {
		if slices.Contains(p.Imports, "google.golang.org/protobuf/runtime/protoimpl") && !matchesAny(p.rel(), allowed) {
			t.Errorf("%s holds generated protobuf types", p.rel())
		}
	}
}

func ours(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return slices.Contains([]string{"internal", "identity", "ztunnel", "waypoint", "cmd", "manifests"}, first)
}

func own(imp string) string { return strings.TrimPrefix(imp, module+"/") }

func matchesAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(path, p) })
}

func matches(path, pattern string) bool {
	if pattern == "" {
		return true
	}
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(path, pattern)
	}
	return path == pattern
}
