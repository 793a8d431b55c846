package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// DefaultStateDir is where a cluster keeps its files.
const DefaultStateDir = "/var/lib/towpath-cluster"

// Addresses of the cluster. They are constants: one machine runs one cluster.
const (
	bridgeName    = "towpath0"
	machineIP     = "172.31.0.1"
	machineCIDR   = "172.31.0.1/24"
	nodeNet       = "172.31.0.0/24"
	balancerCIDR  = "172.31.128.0/17"
	podCIDR       = "10.244.0.0/16"
	serviceCIDR   = "10.96.0.0/16"
	apiServiceIP  = "10.96.0.1"
	dnsServiceIP  = "10.96.0.10"
	clusterDomain = "cluster.local"
	apiPort       = 6443
	etcdURL       = "http://127.0.0.1:23790"
	etcdPeerURL   = "http://127.0.0.1:23800"
	maxNodes      = 9
)

// nodeDirs are the directories that each node has for itself.
var nodeDirs = []string{
	"/etc/cni/net.d",
	"/opt/cni/bin",
	"/run/containerd",
	"/run/netns",
	"/run/towpath",
	"/var/lib/cni",
	"/var/lib/containerd",
	"/var/lib/kubelet",
	"/var/lib/towpath",
	"/var/log/containers",
	"/var/log/pods",
}

// layout names the files of a cluster.
type layout struct {
	root string
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

func (l layout) kubeconfig() string         { return l.path("kubeconfig") }
func (l layout) pki(name string) string     { return l.path("pki", name) }
func (l layout) config(name string) string  { return l.path("config", name) }
func (l layout) log(name string) string     { return l.path("logs", name+".log") }
func (l layout) pidFile(name string) string { return l.path("run", name+".pid") }
func (l layout) createdList() string        { return l.path("run", "created-dirs") }

// node is one node: its name, addresses and directory.
type node struct {
	Name    string
	Index   int
	IP      netip.Addr
	PodCIDR netip.Prefix
	dir     string
}

// newNode returns the node with the given number, counted from 1.
func (l layout) newNode(index int) node {
	name := fmt.Sprintf("node-%d", index)
	return node{
		Name:    name,
		Index:   index,
		IP:      netip.AddrFrom4([4]byte{172, 31, 0, byte(10 + index)}),
		PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(index), 0}), 24),
		dir:     l.path("nodes", name),
	}
}

func (l layout) nodes(count int) []node {
	nodes := make([]node, 0, count)
	for i := 1; i <= count; i++ {
		nodes = append(nodes, l.newNode(i))
	}
	return nodes
}

// file is where a file of the node lies as the machine sees it.
func (n node) file(path string) string { return filepath.Join(n.dir, "fs", path) }

// config is a configuration file of the node, the same path on both sides.
func (n node) config(name string) string { return filepath.Join(n.dir, "config", name) }

func (n node) netns() string { return "towpath-" + n.Name }
func (n node) veth() string  { return fmt.Sprintf("towpath-n%d", n.Index) }

// Names of the node's processes.
func (n node) holder() string     { return n.Name + "-holder" }
func (n node) containerd() string { return n.Name + "-containerd" }
func (n node) kubelet() string    { return n.Name + "-kubelet" }
func (n node) kubeProxy() string  { return n.Name + "-kube-proxy" }

// podCgroup is the kubelet's cgroup root.
func (n node) podCgroup() string { return cgroupRoot + "/" + n.Name }

// CacheDir is where built programs are kept between runs.
func CacheDir() string {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		base = "/var/cache"
	}
	return filepath.Join(base, "towpath")
}
