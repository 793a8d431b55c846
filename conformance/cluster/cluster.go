package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Options say what kind of cluster to run; the zero value is a good one.
type Options struct {
	// StateDir is DefaultStateDir if empty.
	StateDir string
	// Nodes is how many nodes there are, 2 if zero.
	Nodes int
	// ConformanceImages also loads the images of the Gateway API suite.
	ConformanceImages bool
	// Log receives lines of progress; nil discards them.
	Log io.Writer
}

func (o *Options) complete() error {
	if o.StateDir == "" {
		o.StateDir = DefaultStateDir
	}
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return fmt.Errorf("%d nodes: at least 1 and at most %d are possible", o.Nodes, maxNodes)
	}
	if !filepath.IsAbs(o.StateDir) {
		return fmt.Errorf("state directory %s: not an absolute path", o.StateDir)
	}
	return nil
}

// Node is one node of a running cluster.
type Node struct {
	Name    string
	IP      string
	PodCIDR string
	// Dir is the machine's view of the node's own directories: the node's
	// /etc/cni/net.d is Dir/etc/cni/net.d.
	Dir string
}

// Cluster is a running cluster. It may be used by several goroutines.
type Cluster struct {
	files layout
	nodes []node
	ctr   string
	log   io.Writer
}

// record is what is written down about a cluster when it is first made.
type record struct {
	Nodes int `json:"nodes"`
	// Complete says that the cluster was healthy once.
	Complete bool   `json:"complete"`
	Ctr      string `json:"ctr"`
}

func (l layout) recordFile() string { return l.path("cluster.json") }

func (l layout) readRecord() (record, error) {
	var r record
	text, err := os.ReadFile(l.recordFile())
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", l.recordFile(), err)
	}
	return r, nil
}

func (l layout) writeRecord(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(l.recordFile(), text, 0o644)
}

// ErrNotRunning says that there is no cluster in the state directory.
var ErrNotRunning = errors.New("no cluster is running; start one with `cluster up`")

// Open returns the cluster that was brought up in a state directory, which may
// be empty for DefaultStateDir. It does not look whether it is healthy.
func Open(stateDir string) (*Cluster, error) {
	if stateDir == "" {
		stateDir = DefaultStateDir
	}
	files := layout{stateDir}
	r, err := files.readRecord()
	if errors.Is(err, os.ErrNotExist) || err == nil && !r.Complete {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	return &Cluster{files: files, nodes: files.nodes(r.Nodes), ctr: r.Ctr, log: io.Discard}, nil
}

// Kubeconfig is the path of a kubeconfig with all rights.
func (c *Cluster) Kubeconfig() string { return c.files.kubeconfig() }

// LogDir is where the logs of the cluster's processes are.
func (c *Cluster) LogDir() string { return c.files.path("logs") }

// Nodes lists the nodes.
func (c *Cluster) Nodes() []Node {
	var nodes []Node
	for _, n := range c.nodes {
		nodes = append(nodes, Node{
			Name: n.Name, IP: n.IP.String(), PodCIDR: n.PodCIDR.String(), Dir: filepath.Join(n.dir, "fs"),
		})
	}
	return nodes
}

// NodeCommand returns a command that runs in the network and mount namespaces of
// the node, for instance to look at its rules or capture its packets. Its working
// directory is the root. An unknown node shows as an error when it is started.
func (c *Cluster) NodeCommand(ctx context.Context, nodeName string, args ...string) *exec.Cmd {
	enter, err := c.NodeArgs(nodeName)
	if err == nil && len(args) == 0 {
		err = errors.New("no command given")
	}
	if err != nil {
		cmd := exec.CommandContext(ctx, "false")
		cmd.Err = err
		return cmd
	}
	argv := append(enter, args...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// NodeArgs returns the words to put before a command to run it on the node.
func (c *Cluster) NodeArgs(nodeName string) ([]string, error) {
	for _, n := range c.nodes {
		if n.Name != nodeName {
			continue
		}
		holder, ok := c.files.running(n.holder())
		if !ok {
			return nil, fmt.Errorf("node %s is not running", nodeName)
		}
		return enterArgs(holder.PID), nil
	}
	return nil, fmt.Errorf("no node %q", nodeName)
}

// Check returns nil if every process lives, the API server answers and every
// node is ready.
func (c *Cluster) Check(ctx context.Context) error {
	for _, name := range c.processes() {
		if _, ok := c.files.running(name); !ok {
			return fmt.Errorf("%s is not running", name)
		}
	}
	api, err := c.files.newAPIClient("admin")
	if err != nil {
		return err
	}
	defer api.close()
	if err := api.get(ctx, "/readyz", nil); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	for _, n := range c.nodes {
		if err := c.checkNode(ctx, api, n); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return c.checkDNS(ctx, api)
}

// checkDNS returns nil if the cluster's name server is available.
func (c *Cluster) checkDNS(ctx context.Context, api *apiClient) error {
	var deployment struct {
		Status struct {
			Available int `json:"availableReplicas"`
		} `json:"status"`
	}
	if err := api.get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &deployment); err != nil {
		return err
	}
	if deployment.Status.Available == 0 {
		return errors.New("deployment kube-system/coredns has no available pod")
	}
	return nil
}

// Processes tells for every process of the cluster whether it lives.
func (c *Cluster) Processes() map[string]bool {
	alive := map[string]bool{}
	for _, name := range c.processes() {
		_, alive[name] = c.files.running(name)
	}
	return alive
}

// processes names all processes in the order in which they start.
func (c *Cluster) processes() []string {
	names := append([]string(nil), controlPlane...)
	for _, n := range c.nodes {
		names = append(names, n.holder(), n.containerd(), n.kubelet(), n.kubeProxy())
	}
	return names
}

// lock keeps other invocations of up and down away until unlock is called.
func (l layout) lock(ctx context.Context, log io.Writer) (unlock func(), err error) {
	path := "/run/lock/towpath-cluster.lock"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !told {
			fmt.Fprintln(log, "another up or down is at work; waiting for it")
		}
		sleep(ctx, 200*time.Millisecond)
		if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, ctx.Err()), file.Close())
		}
	}
}
