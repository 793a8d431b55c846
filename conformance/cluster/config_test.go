package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTemplatesRender(t *testing.T) {
	l := layout{"/state"}
	data := l.settings(l.newNode(2))
	for name, want := range map[string][]string{
		"containerd.toml":     {`sandbox = "registry.k8s.io/pause:3.10"`, "restrict_oom_score_adj = true"},
		"kubelet.yaml":        {"cgroupRoot: /towpath-cluster/node-2", `clusterDNS: ["10.96.0.10"]`, "tlsCertFile: /state/pki/node-2-server.crt"},
		"kube-proxy.yaml":     {"mode: nftables", "kubeconfig: /state/nodes/node-2/config/kube-proxy.kubeconfig"},
		"coredns.yaml":        {"clusterIP: 10.96.0.10", "cluster.local:53", "image: " + corednsImage},
		"cni.conflist":        {`"subnet": "10.244.2.0/24"`},
		"authentication.yaml": {"path: /readyz"},
	} {
		text, err := render(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range want {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s does not contain %q", name, part)
			}
		}
		if strings.HasSuffix(name, ".conflist") && !json.Valid(text) {
			t.Errorf("%s is not JSON", name)
		}
	}
}

func TestNodeAddressesDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, n := range (layout{"/state"}).nodes(maxNodes) {
		for _, value := range []string{n.IP.String(), n.PodCIDR.String(), n.veth(), n.netns(), n.dir} {
			if seen[value] != "" {
				t.Errorf("%s of %s is also that of %s", value, n.Name, seen[value])
			}
			seen[value] = n.Name
		}
		if len(n.veth()) > 15 {
			t.Errorf("link name %s is too long", n.veth())
		}
	}
}

func TestNodeCommandsRouteToOthersOnly(t *testing.T) {
	nodes := (layout{"/state"}).nodes(2)
	text := strings.Join(nodeCommands(nodes[0], nodes), "\n")
	if !strings.Contains(text, "ip -n towpath-node-1 route add 10.244.2.0/24 via 172.31.0.12") {
		t.Errorf("no route to the other node in:\n%s", text)
	}
	if strings.Contains(text, "10.244.1.0/24") {
		t.Errorf("a route to the node itself in:\n%s", text)
	}
}

func TestMachineDirsAreRemovedIfEmpty(t *testing.T) {
	root := t.TempDir()
	l := layout{filepath.Join(root, "state")}
	if err := os.MkdirAll(l.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	empty, used := filepath.Join(root, "a", "b"), filepath.Join(root, "c", "d")
	for _, dir := range []string{empty, used, empty} {
		if err := l.makeMachineDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(used, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.removeMachineDirs(); err != nil {
			t.Fatal(err)
		}
	}
	if exists(filepath.Dir(empty)) || !exists(used) {
		t.Error("removed too little or too much")
	}
}
