package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tool is one program that is built from a module.
type tool struct {
	name   string
	module string // directory of the module, relative to this one
	pkg    string
	flags  []string
}

const (
	kubernetesVersion = "v1.36.3"
	versionPackage    = "k8s.io/component-base/version"
)

var (
	stripFlags      = []string{"-ldflags=-s -w"}
	containerdFlags = []string{"-tags=no_btrfs,no_devmapper,no_zfs", "-ldflags=-s -w"}
	kubernetesFlags = []string{"-ldflags=-s -w" +
		" -X " + versionPackage + ".gitVersion=" + kubernetesVersion +
		" -X " + versionPackage + ".gitMajor=1" +
		" -X " + versionPackage + ".gitMinor=36" +
		" -X " + versionPackage + ".gitTreeState=clean"}
)

// tools lists all programs in the order in which a starting cluster needs them.
var tools = []tool{
	{"cluster", ".", "./cmd/cluster", stripFlags},
	{"pause", ".", "./cmd/pause", stripFlags},
	{"etcd", "tools/etcd", "go.etcd.io/etcd/server/v3", stripFlags},
	kubernetesTool("kube-apiserver"),
	kubernetesTool("kube-controller-manager"),
	kubernetesTool("kube-scheduler"),
	containerdTool("containerd"),
	containerdTool("containerd-shim-runc-v2"),
	containerdTool("ctr"),
	kubernetesTool("kubelet"),
	kubernetesTool("kube-proxy"),
	kubernetesTool("kubectl"),
	{"coredns", "tools/coredns", "github.com/coredns/coredns", stripFlags},
	{"echo-basic", "tools/echo", "sigs.k8s.io/gateway-api/conformance/echo-basic", stripFlags},
	{"echo-server", "tools/echo", "istio.io/istio/pkg/test/echo/cmd/server", stripFlags},
	{"echo-client", "tools/echo", "istio.io/istio/pkg/test/echo/cmd/client", stripFlags},
	{"jaeger", "tools/jaeger", "github.com/jaegertracing/jaeger/cmd/all-in-one", stripFlags},
}

// clusterTools are those that every cluster needs.
var clusterTools = []string{
	"cluster", "pause", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
	"containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "kubectl", "coredns",
}

var echoTools = []string{"echo-basic", "echo-server", "echo-client"}

func kubernetesTool(name string) tool {
	return tool{name, "tools/kubernetes", "k8s.io/kubernetes/cmd/" + name, kubernetesFlags}
}

func containerdTool(name string) tool {
	return tool{name, "tools/containerd", "github.com/containerd/containerd/v2/cmd/" + name, containerdFlags}
}

// Tools returns the names of all programs that Build knows.
func Tools() []string {
	var names []string
	for _, t := range tools {
		names = append(names, t.name)
	}
	return names
}

// Build builds the named programs, unless the cache has them, and returns their
// paths in the same order.
func Build(ctx context.Context, log io.Writer, names ...string) ([]string, error) {
	b, err := newBuilder(log, names)
	if err != nil {
		return nil, err
	}
	b.start(ctx)
	defer b.stop()
	var paths []string
	for _, name := range names {
		path, err := b.need(ctx, name)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// builder builds programs one after the other in the background, while others
// already use the first ones.
type builder struct {
	log    io.Writer
	jobs   []*buildJob
	cancel context.CancelFunc
	done   chan struct{}
}

// buildJob is one program to build; err may be read once built is closed.
type buildJob struct {
	tool
	dir   string // of the module
	path  string // of the program in the cache
	built chan struct{}
	err   error
}

func newBuilder(log io.Writer, names []string) (*builder, error) {
	source, err := sourceDir()
	if err != nil {
		return nil, err
	}
	b := &builder{log: log, done: make(chan struct{})}
	keys := map[string]string{}
	for _, t := range tools {
		if !slices.Contains(names, t.name) {
			continue
		}
		dir := filepath.Join(source, t.module)
		if keys[t.module] == "" {
			if keys[t.module], err = moduleKey(dir); err != nil {
				return nil, fmt.Errorf("build %s: %w", t.name, err)
			}
		}
		path := filepath.Join(CacheDir(), "bin", filepath.Base(dir)+"-"+keys[t.module], t.name)
		b.jobs = append(b.jobs, &buildJob{tool: t, dir: dir, path: path, built: make(chan struct{})})
	}
	if len(b.jobs) != len(names) {
		return nil, fmt.Errorf("build %s: known programs are %s",
			strings.Join(names, " "), strings.Join(Tools(), " "))
	}
	return b, nil
}

// sourceDir is the directory of this module, which the tools' modules lie in.
// They are not part of it, so they cannot be embedded.
func sourceDir() (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok {
		dir := filepath.Dir(file)
		if exists(filepath.Join(dir, "tools", "kubernetes", "go.mod")) {
			return dir, nil
		}
	}
	if dir := os.Getenv("TOWPATH_CLUSTER_SOURCE"); dir != "" {
		return dir, nil
	}
	out, err := exec.Command("go", "list", "-m", "-f={{.Dir}}", "github.com/towpath-mesh/towpath/conformance/cluster").Output()
	if err != nil {
		return "", errors.New("sources not found: run inside the repository or set TOWPATH_CLUSTER_SOURCE to conformance/cluster")
	}
	return strings.TrimSpace(string(out)), nil
}

// moduleKey identifies what is built from a module: its requirements and, for
// this module, its own sources. The compiler that happens to be chosen is no part
// of it; the same programs come out, minutes later.
func moduleKey(dir string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%v %v\n", kubernetesFlags, containerdFlags)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "tools" {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".md") {
			return nil
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", entry.Name(), len(text), text)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil))[:12], err
}

// start begins to build what is missing; stop must follow.
func (b *builder) start(ctx context.Context) {
	ctx, b.cancel = context.WithCancel(ctx)
	var missing []*buildJob
	for _, job := range b.jobs {
		if exists(job.path) {
			close(job.built)
		} else {
			missing = append(missing, job)
		}
	}
	go func() {
		defer close(b.done)
		for i, job := range missing {
			label := fmt.Sprintf("build %d/%d %s", i+1, len(missing), job.name)
			job.err = job.build(ctx, b.log, label)
			close(job.built)
		}
	}()
}

// stop ends a running build and waits until it has ended.
func (b *builder) stop() {
	b.cancel()
	<-b.done
}

// need waits until the program is built and returns its path.
func (b *builder) need(ctx context.Context, name string) (string, error) {
	for _, job := range b.jobs {
		if job.name != name {
			continue
		}
		select {
		case <-job.built:
			return job.path, job.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return "", fmt.Errorf("program %s is not among those to build", name)
}

// build compiles into a temporary file next to the target: a build that is
// killed leaves no half-written program.
func (j *buildJob) build(ctx context.Context, log io.Writer, label string) error {
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return err
	}
	begin := time.Now()
	stop := heartbeat(log, label, 15*time.Second)
	defer stop()
	removeOrphans(j.path)
	tmp := j.path + tmpMark + strconv.Itoa(os.Getpid())
	defer os.Remove(tmp)
	args := append([]string{"-n", "5", "go", "build", "-mod=readonly", "-trimpath", "-o", tmp}, j.flags...)
	cmd := exec.CommandContext(ctx, "nice", append(args, j.pkg)...)
	cmd.Dir = j.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w: %s", j.name, j.dir, err, lastLine(string(out)))
	}
	if err := os.Rename(tmp, j.path); err != nil {
		return err
	}
	fmt.Fprintf(log, "%s: %.0fs\n", label, time.Since(begin).Seconds())
	return nil
}

const tmpMark = ".tmp-"

// removeOrphans removes what builds of processes that are dead have left.
func removeOrphans(path string) {
	left, _ := filepath.Glob(path + tmpMark + "*")
	for _, file := range left {
		if !exists("/proc/" + strings.TrimPrefix(file, path+tmpMark)) {
			os.Remove(file)
		}
	}
}

// heartbeat writes a line at once and then at every interval, until the returned
// function is called.
func heartbeat(log io.Writer, label string, every time.Duration) (stop func()) {
	fmt.Fprintf(log, "%s ...\n", label)
	begin, quit, done := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticks.C:
				fmt.Fprintf(log, "%s ... %.0fs\n", label, time.Since(begin).Seconds())
			}
		}
	}()
	return func() { close(quit); <-done }
}
