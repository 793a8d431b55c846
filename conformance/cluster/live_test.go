package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/live.yaml
var liveManifest string

// TestLive looks at a running cluster from all sides. It brings one up if
// TOWPATH_CLUSTER_LIVE is set, which needs root, and leaves it running.
func TestLive(t *testing.T) {
	if os.Getenv("TOWPATH_CLUSTER_LIVE") == "" {
		t.Skip("TOWPATH_CLUSTER_LIVE is not set")
	}
	// Not the test's own context, which ends before the clean-up.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	c, err := Up(ctx, Options{Log: os.Stderr, ConformanceImages: true})
	if err != nil {
		t.Fatal(err)
	}
	k := newLive(ctx, t, c)
	k.do("apply", "-f", "-")
	t.Cleanup(func() { k.do("delete", "--wait=false", "namespace", "cluster-live") })
	k.do("rollout", "status", "--timeout=90s", "deployment/echo")
	k.do("rollout", "status", "--timeout=90s", "daemonset/agent")
	k.do("wait", "--for=condition=Ready", "--timeout=90s", "pod/client")

	t.Run("DNS name from a pod", func(t *testing.T) { testDNSName(t, k) })
	t.Run("from the machine", func(t *testing.T) { testFromMachine(t, k) })
	t.Run("logs", func(t *testing.T) { k.want(t, "ready", "logs", "client") })
	t.Run("node directories", func(t *testing.T) { testNodeDirs(t, k) })
	t.Run("host port", func(t *testing.T) { k.get(t, k.jsonpath("pod/client", "{.status.hostIP}")+":18080") })
	t.Run("tokens", func(t *testing.T) { testTokens(t, k) })
}

// live runs kubectl in the test's namespace.
type live struct {
	ctx     context.Context
	t       *testing.T
	cluster *Cluster
	kubectl string
}

func newLive(ctx context.Context, t *testing.T, c *Cluster) live {
	paths, err := Build(ctx, os.Stderr, "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	return live{ctx, t, c, paths[0]}
}

func (k live) run(args ...string) (string, error) {
	args = append([]string{"--kubeconfig=" + k.cluster.Kubeconfig(), "--namespace=cluster-live"}, args...)
	cmd := exec.CommandContext(k.ctx, k.kubectl, args...)
	cmd.Stdin = strings.NewReader(liveManifest)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (k live) do(args ...string) string {
	k.t.Helper()
	out, err := k.run(args...)
	if err != nil {
		k.t.Fatalf("kubectl %v: %v: %s", args, err, out)
	}
	return out
}

func (k live) jsonpath(object, path string) string {
	return k.do("get", object, "--output=jsonpath="+path)
}

func (k live) want(t *testing.T, part string, args ...string) {
	t.Helper()
	out, err := k.run(args...)
	if err != nil || !strings.Contains(out, part) {
		t.Errorf("kubectl %v: %v, %q is not in: %s", args, err, part, out)
	}
}

// get sends a request from the machine.
func (k live) get(t *testing.T, address string) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address)
	if err != nil {
		t.Error(err)
		return
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", address, response.Status)
	}
}

// testDNSName asks until pods of both nodes have answered.
func testDNSName(t *testing.T, k live) {
	seen := map[string]bool{}
	for range 40 {
		out := k.do("exec", "client", "--", "client", "http://echo/")
		for _, pod := range strings.Fields(k.jsonpath("pods", "{.items[*].metadata.name}")) {
			if strings.Contains(out, pod) {
				seen[k.jsonpath("pod/"+pod, "{.spec.nodeName}")] = true
			}
		}
		if len(seen) == 2 {
			return
		}
	}
	t.Errorf("answers came from %v only", seen)
}

func testFromMachine(t *testing.T, k live) {
	k.do("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=10s", "service/echo")
	time.Sleep(time.Second) // kube-proxy has its own view
	k.get(t, k.jsonpath("service/echo", "{.status.loadBalancer.ingress[0].ip}"))
	k.get(t, k.jsonpath("service/echo", "{.spec.clusterIP}"))
	for _, ip := range strings.Fields(k.do("get", "pods", "-l=app=echo", "--output=jsonpath={.items[*].status.podIP}")) {
		k.get(t, ip+":3000")
	}
}

// testNodeDirs writes a file on each node and reads it in the node's pod of a
// DaemonSet; what that mounts must be seen on the node.
func testNodeDirs(t *testing.T, k live) {
	for _, n := range k.cluster.Nodes() {
		write := k.cluster.NodeCommand(k.ctx, n.Name, "sh", "-c", "echo I am "+n.Name+" > /run/towpath/name")
		if out, err := write.CombinedOutput(); err != nil {
			t.Fatalf("write on %s: %v: %s", n.Name, err, out)
		}
		pod := k.do("get", "pods", "-l=app=agent", "--field-selector=spec.nodeName="+n.Name, "--output=name")
		k.want(t, "I am "+n.Name, "exec", pod, "--", "cat", "/run/towpath/name")
		k.want(t, n.IP, "exec", pod, "--", "ip", "-4", "address")
		k.want(t, n.PodCIDR, "exec", pod, "--", "cat", "/etc/cni/net.d/10-towpath-cluster.conflist")
		k.want(t, "cni-", "exec", pod, "--", "ls", "/run/netns")
		k.do("exec", pod, "--", "sh", "-c", "mkdir -p /run/towpath/m && mount -t tmpfs probe /run/towpath/m")
		mounts, err := k.cluster.NodeCommand(k.ctx, n.Name, "cat", "/proc/self/mountinfo").Output()
		if err != nil || !strings.Contains(string(mounts), "/run/towpath/m ") {
			t.Errorf("the pod's mount is not seen on %s: %v", n.Name, err)
		}
		k.do("exec", pod, "--", "umount", "/run/towpath/m")
	}
}

// testTokens asks for a token with an audience of its own and has it reviewed.
func testTokens(t *testing.T, k live) {
	token := k.do("create", "token", "default", "--audience=towpath")
	for audience, want := range map[string]string{"towpath": "true", "other": ""} {
		review := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q,"audiences":[%q]}}`, token, audience)
		cmd := exec.CommandContext(k.ctx, k.kubectl, "--kubeconfig="+k.cluster.Kubeconfig(),
			"create", "-f", "-", "--output=jsonpath={.status.authenticated}")
		cmd.Stdin = strings.NewReader(review)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("audience %s: authenticated %q, want %q: %v", audience, out, want, err)
		}
	}
}
