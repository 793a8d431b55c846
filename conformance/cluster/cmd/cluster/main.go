// Command cluster runs a Kubernetes cluster on this machine, for tests and the
// demo. See the package documentation of conformance/cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/towpath-mesh/towpath/conformance/cluster"
)

const usage = `usage: cluster [--state DIR] VERB

  up [--nodes N] [--conformance-images]   start the cluster; a healthy one is left alone
  down                                    stop it and remove everything but the logs
  clean [--cache]                         down, and remove the logs; also the built programs
  status                                  show processes and health; exit 1 if not healthy
  load-image [--user U] NAME=BINARY[,FILE[:PATH]]...
                                          make an image of a static program and load it on all nodes
  load-conformance-images                 build and load the images of the Gateway API suite
  kubeconfig                              print the path of the kubeconfig
  kubectl ARG...                          run kubectl on the cluster
  exec-node NODE COMMAND...               run a command in a node's namespaces
  build [PROGRAM...]                      build programs and print their paths
`

// verb is a command of the user; args are the words after it.
type verb func(ctx context.Context, stateDir string, args []string) error

var verbs = map[string]verb{
	"up":                      up,
	"down":                    down,
	"clean":                   clean,
	"status":                  status,
	"load-image":              loadImage,
	"load-conformance-images": loadConformanceImages,
	"kubeconfig":              kubeconfig,
	"kubectl":                 kubectl,
	"exec-node":               execNode,
	"build":                   build,
	// The cluster starts these two itself.
	"hold": func(_ context.Context, _ string, args []string) error {
		return cluster.HoldNode(strings.Join(args, ""))
	},
	"address-controller": func(ctx context.Context, _ string, args []string) error {
		return cluster.RunAddressController(ctx, strings.Join(args, ""))
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	state := flag.String("state", cluster.DefaultStateDir, "state directory")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	do, ok := verbs[flag.Arg(0)]
	if !ok {
		flag.Usage()
		os.Exit(2)
	}
	if err := do(ctx, *state, flag.Args()[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

func up(ctx context.Context, stateDir string, args []string) error {
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	options := cluster.Options{StateDir: stateDir, Log: os.Stderr}
	flags.IntVar(&options.Nodes, "nodes", 2, "number of nodes")
	flags.BoolVar(&options.ConformanceImages, "conformance-images", false, "load the images of the Gateway API suite")
	flags.Parse(args)
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", c.Kubeconfig())
	return nil
}

func down(ctx context.Context, stateDir string, _ []string) error {
	return cluster.Down(ctx, stateDir, os.Stderr)
}

func clean(ctx context.Context, stateDir string, args []string) error {
	flags := flag.NewFlagSet("clean", flag.ExitOnError)
	cache := flags.Bool("cache", false, "also remove the built programs")
	flags.Parse(args)
	if err := cluster.Clean(ctx, stateDir, os.Stderr); err != nil {
		return err
	}
	if *cache {
		return os.RemoveAll(filepath.Join(cluster.CacheDir(), "bin"))
	}
	return nil
}

func status(ctx context.Context, stateDir string, _ []string) error {
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	processes := c.Processes()
	var names []string
	for name := range processes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("%-26s %s\n", name, map[bool]string{true: "running", false: "dead"}[processes[name]])
	}
	for _, n := range c.Nodes() {
		fmt.Printf("%-26s %s, pods %s, files %s\n", n.Name, n.IP, n.PodCIDR, n.Dir)
	}
	fmt.Printf("%-26s %s\n%-26s %s\n", "kubeconfig", c.Kubeconfig(), "logs", c.LogDir())
	if err := c.Check(ctx); err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	fmt.Println("healthy")
	return nil
}

func kubeconfig(_ context.Context, stateDir string, _ []string) error {
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	fmt.Println(c.Kubeconfig())
	return nil
}

func kubectl(ctx context.Context, stateDir string, args []string) error {
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	paths, err := cluster.Build(ctx, os.Stderr, "kubectl")
	if err != nil {
		return err
	}
	return replace(append([]string{paths[0], "--kubeconfig=" + c.Kubeconfig()}, args...))
}

func execNode(_ context.Context, stateDir string, args []string) error {
	if len(args) < 2 {
		return errors.New("exec-node: needs a node and a command")
	}
	c, err := cluster.Open(stateDir)
	if err != nil {
		return err
	}
	enter, err := c.NodeArgs(args[0])
	if err != nil {
		return err
	}
	return replace(append(enter, args[1:]...))
}

// replace runs a command in place of this process, so that signals and the
// terminal are the command's.
func replace(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

func build(ctx context.Context, _ string, args []string) error {
	if len(args) == 0 {
		args = cluster.Tools()
	}
	paths, err := cluster.Build(ctx, os.Stderr, args...)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(paths, "\n"))
	return nil
}
