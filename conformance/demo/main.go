// Command demo shows Towpath at work on a local cluster and proves what it
// says: it brings the cluster up, installs Towpath, takes an application that
// is under load into the mesh, attaches a route, and measures each claim there
// and then.
//
// With the word "prepare" it stops when Towpath is installed: the conformance
// tests start from there. With "break" it kills and replaces parts of the mesh
// that an earlier run left behind, under the same load, and counts what is lost.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	repo := flag.String("repo", ".", "root of the Towpath repository")
	sampling := flag.Float64("trace-sampling", 1, "share of new traces that Towpath samples")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{repo: *repo, sampling: *sampling, out: os.Stdout, started: time.Now()}
	err := d.run(ctx, flag.Arg(0))
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// step is a part of the demo with a title.
type step struct {
	title string
	run   func(context.Context) error
}

func (d *demo) run(ctx context.Context, verb string) error {
	prepare := []step{
		{"A Kubernetes cluster of two nodes on this machine", d.bringUp},
		{"Images: Towpath, built from this tree", d.loadTowpath},
		{"Install Towpath", d.install},
	}
	show := []step{
		{"An application under load, and an OpenTelemetry backend", d.deployShop},
		{"Before the mesh", d.before},
		{"Take the namespace into the mesh", d.enrol},
		{"On the wire between the nodes", d.onTheWire},
		{"Who speaks with whom", d.identities},
		{"Attach an HTTPRoute: 90/10 and a header", d.route},
		{"One request, the whole way", d.trace},
	}
	breakThings := []step{
		{"Kill all controllers", d.killControllers},
		{"Edit the route", d.editRoute},
		{"Replace a backend's pods", d.rollBackend},
		{"Replace ztunnel", d.upgradeZTunnel},
		{"Kill ztunnel", d.killZTunnel},
	}
	steps := prepare
	switch verb {
	case "prepare":
	case "break":
		steps = append([]step{{"A Kubernetes cluster of two nodes on this machine", d.bringUp}}, breakThings...)
	case "":
		steps = append(steps, show...)
	default:
		return fmt.Errorf("verb %q: want none, prepare or break", verb)
	}
	for i, s := range steps {
		start := time.Now()
		fmt.Fprintf(d.out, "\n\033[1m[%d/%d] %s\033[0m\n", i+1, len(steps), s.title)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		fmt.Fprintf(d.out, "  (%.1f s)\n", time.Since(start).Seconds())
	}
	if verb == "" {
		d.next()
	}
	fmt.Fprintf(d.out, "\nDone in %s.\n", time.Since(d.started).Round(time.Second))
	return nil
}
