package meshtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// stopTime is how long a program may take to end; the lab gives them a drain
// budget of one second.
const stopTime = 10 * time.Second

func timeout(d time.Duration) <-chan time.Time { return time.After(d) }

// Lab is a mesh.
type Lab struct {
	*Net
	t       testing.TB
	Control *ControlPlane
	Traces  *Traces
}

// New makes a mesh without nodes.
func New(t testing.TB) *Lab {
	t.Helper()
	program(t, "ztunnel") // builds all, before anybody's time runs
	l := &Lab{Net: NewNet(t), t: t}
	l.Control = NewControlPlane(t, bridge4.Addr())
	l.Traces = newTraces(t)
	l.Control.Config.SetSynced()
	return l
}

// Node is a machine of the mesh: a node agent, and a ztunnel without privileges.
type Node struct {
	Name           string
	Agent, ZTunnel *Process
	lab            *Lab
	runDir         string
}

// Node starts one. Its programs have a namespace each: pods of a node share the
// bridge with all others.
func (l *Lab) Node(name string) *Node {
	t := l.t
	t.Helper()
	n := &Node{Name: name, lab: l, runDir: publicDir(t)}
	n.Agent = start(t, l.Host(name+"-agent"), 0, "node-agent", append(l.common(configstream.RoleNodeAgent, "towpath-node-agent", name),
		"--host-proc=/proc", "--run-dir="+n.runDir, "--cni-conf-dir=", fmt.Sprintf("--ztunnel-uid=%d", unprivileged))...)
	n.ZTunnel = start(t, l.Host(name+"-ztunnel"), unprivileged, "ztunnel", append(l.common(configstream.RoleZTunnel, "towpath-ztunnel", name),
		"--run-dir="+n.runDir, "--drain=1s", "--shutdown-drain=1s", "--otlp-endpoint="+l.Traces.URL, "--trace-sampling=1")...)
	return n
}

// common are the flags that every program has.
func (l *Lab) common(role configstream.Role, account, node string) []string {
	token, err := l.Control.Token(configstream.Peer{Role: role, Namespace: "towpath-system", ServiceAccount: account, Pod: account + "-" + node, Node: node}, "uid-"+account+"-"+node)
	must(l.t, "token", err)
	return append(l.controller(), "--token="+token, "--node-name="+node)
}

func (l *Lab) controller() []string {
	return []string{"--controller-address=" + l.Control.Address, "--trust-domain=" + TrustDomain.Name(), "--root-cert=" + l.Control.RootFile}
}

// Pod is a workload of the lab.
type Pod struct {
	*Host
	Workload mesh.Workload
	Node     *Node
}

// Pod makes a pod outside the mesh.
func (l *Lab) Pod(n *Node, namespace, name string) *Pod {
	l.t.Helper()
	p := &Pod{Host: l.Host(namespace + "-" + name), Node: n}
	p.Workload = mesh.Workload{ID: mesh.WorkloadID("uid-" + namespace + "-" + name), Namespace: namespace, Name: name, ServiceAccount: name,
		Identity: ServiceAccount(namespace, name), Node: n.Name, Addresses: []netip.Addr{p.V4, p.V6}}
	l.publish(p)
	return p
}

// MeshPod makes an enrolled pod, the way a cluster does: the controller knows
// the pod before it has an address, the CNI plugin holds its start until the
// node agent has enrolled it, the agent's report makes it reachable by tunnel.
func (l *Lab) MeshPod(ctx context.Context, n *Node, namespace, name string) *Pod {
	l.t.Helper()
	p := &Pod{Host: l.Host(namespace + "-" + name), Node: n}
	id := "uid-" + namespace + "-" + name
	p.Workload = mesh.Workload{ID: mesh.WorkloadID(id), Namespace: namespace, Name: name, ServiceAccount: name,
		Identity: ServiceAccount(namespace, name), Node: n.Name, Enrolled: true}
	l.Control.Cluster.SetPod(id, p.Workload.Identity, n.Name)
	l.publish(p)
	l.cni(ctx, p, "ADD")
	must(l.t, "enrolment of "+name, l.Control.WaitReport(ctx, id, true))
	p.Workload.Addresses = []netip.Addr{p.V4, p.V6}
	p.Workload.Tunnel = mesh.TunnelHBONE
	l.publish(p)
	return p
}

// publicDir is a directory that programs without privileges can use; a test's
// TempDir is root's alone.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "towpath-lab-")
	must(t, "directory", err)
	must(t, "directory", os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (l *Lab) publish(p *Pod) {
	w := p.Workload
	l.Control.Config.PublishMesh(mesh.Update{Workloads: []*mesh.Workload{&w}})
}

// Release takes a pod out of the mesh and waits until the agent says so.
func (l *Lab) Release(ctx context.Context, p *Pod) {
	l.t.Helper()
	p.Workload.Enrolled, p.Workload.Tunnel = false, mesh.TunnelNone
	l.publish(p)
	must(l.t, "release of "+p.Name, l.Control.WaitReport(ctx, string(p.Workload.ID), false))
}

// cni runs the plugin as a container runtime does.
func (l *Lab) cni(ctx context.Context, p *Pod, command string) {
	l.t.Helper()
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "lab", "type": "towpath-cni", "socket": filepath.Join(p.Node.runDir, "cni.sock"),
		"prevResult": map[string]any{"cniVersion": "1.0.0",
			"interfaces": []any{map[string]any{"name": "eth0", "sandbox": p.Path}},
			"ips": []any{map[string]any{"address": netip.PrefixFrom(p.V4, 16).String(), "interface": 0},
				map[string]any{"address": netip.PrefixFrom(p.V6, 64).String(), "interface": 0}}},
	})
	must(l.t, "CNI configuration", err)
	// The agent may have just been started.
	for {
		err = l.runCNI(ctx, p, command, conf)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			l.t.Fatalf("lab: CNI %s of %s: %v", command, p.Name, err)
		case <-timeout(100 * time.Millisecond):
		}
	}
}

func (l *Lab) runCNI(ctx context.Context, p *Pod, command string, conf []byte) error {
	cmd := exec.CommandContext(ctx, program(l.t, "towpath-cni"))
	cmd.Stdin = bytes.NewReader(conf)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=lab-" + p.Name, "CNI_NETNS=" + p.Path, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", p.Workload.Namespace, p.Workload.Name, p.Workload.ID)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Service publishes a Service with one slice of endpoints for each address
// family.
func (l *Lab) Service(s mesh.Service, targetPort uint16, pods ...*Pod) {
	u := mesh.Update{Services: []*mesh.Service{&s}}
	for _, family := range []string{"v4", "v6"} {
		slice := &mesh.EndpointSlice{Key: mesh.SliceKey{Namespace: s.Key.Namespace, Name: s.Key.Name + "-" + family}, Service: s.Key}
		for _, p := range s.Ports {
			slice.Ports = append(slice.Ports, mesh.EndpointPort{Name: p.Name, Port: targetPort})
		}
		for _, p := range pods {
			addr := p.V4
			if family == "v6" {
				addr = p.V6
			}
			slice.Endpoints = append(slice.Endpoints, mesh.Endpoint{Address: addr, Workload: p.Workload.ID, Ready: true, Serving: true, Node: p.Node.Name})
		}
		u.Slices = append(u.Slices, slice)
	}
	l.Control.Config.PublishMesh(u)
}

// Waypoint starts a waypoint for a namespace in a pod of its own and publishes
// it; no Service is bound to it yet.
func (l *Lab) Waypoint(n *Node, namespace string) (*Process, mesh.ProxyKey) {
	t := l.t
	t.Helper()
	key := mesh.ProxyKey{Namespace: namespace, Name: mesh.DefaultWaypoint}
	p := &Pod{Host: l.Host(namespace + "-waypoint"), Node: n}
	id := mesh.WorkloadID("uid-" + namespace + "-waypoint")
	p.Workload = mesh.Workload{ID: id, Namespace: namespace, Name: "waypoint-1", ServiceAccount: key.Name, Identity: ServiceAccount(namespace, key.Name),
		Node: n.Name, Addresses: []netip.Addr{p.V4, p.V6}, Tunnel: mesh.TunnelHBONE, Gateway: key}
	l.Control.Cluster.SetPod(string(id), p.Workload.Identity, n.Name)
	l.publish(p)
	l.Service(mesh.Service{Key: mesh.ServiceKey(key), Ports: []mesh.ServicePort{{Name: "hbone", Port: mesh.PortHBONE}}}, mesh.PortHBONE, p)
	token, err := l.Control.Token(configstream.Peer{Role: configstream.RoleProxy, Namespace: namespace, ServiceAccount: key.Name, Pod: "waypoint-1", Node: n.Name, Proxy: key}, string(id))
	must(t, "token", err)
	return start(t, p.Host, unprivileged, "waypoint", append(l.controller(), "--token="+token, "--gateway-namespace="+namespace, "--gateway-name="+key.Name,
		"--otlp-endpoint="+l.Traces.URL, "--trace-sampling=1", "--linger=100ms", "--drain=1s")...), key
}

// Route publishes the table of a Service for a waypoint.
func (l *Lab) Route(proxy mesh.ProxyKey, service mesh.ServiceKey, listeners ...routing.Listener) {
	l.Control.Config.PublishTables([]*routing.Table{{
		Key:       routing.TableKey{Proxy: proxy, Parent: routing.Parent{Kind: routing.ParentService, Namespace: service.Namespace, Name: service.Name}},
		Listeners: listeners,
	}}, nil)
}
