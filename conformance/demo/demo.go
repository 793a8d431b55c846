package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/towpath-mesh/towpath/conformance/cluster"
)

// Images that only exist in the local cluster.
const (
	towpathImage = "towpath.io/towpath:dev"
	shopImage    = "towpath.io/demo-shop:dev"
	jaegerImage  = "towpath.io/demo-jaeger:dev"
)

// demo is one run.
type demo struct {
	repo     string
	sampling float64
	out      io.Writer
	started  time.Time
	cluster  *cluster.Cluster
	// kubectlPath is the kubectl of the cluster's own version.
	kubectlPath string
	image       string // Towpath's, with its content in the tag
	shop        []byte // the shop's manifest, with such an image
}

// say prints one line of result.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "  "+format+"\n", args...)
}

// proved prints a claim that was just measured.
func (d *demo) proved(format string, args ...any) {
	fmt.Fprintf(d.out, "  \033[32m✔\033[0m "+format+"\n", args...)
}

// kubectl shows the command as a user would type it, and runs it.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	d.say("$ kubectl %s", strings.Join(args, " "))
	_, err := d.ask(ctx, nil, args...)
	return err
}

// apply brings a manifest of the demo into the cluster.
func (d *demo) apply(ctx context.Context, name string, manifest []byte) error {
	d.say("$ kubectl apply -f conformance/demo/%s", name)
	_, err := d.ask(ctx, manifest, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// ask runs kubectl quietly and returns what it printed.
func (d *demo) ask(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.kubectlPath, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	return d.output(cmd, "kubectl "+args[0])
}

func (d *demo) output(cmd *exec.Cmd, what string) ([]byte, error) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	if d.cluster != nil {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+d.cluster.Kubeconfig())
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// towctl runs the user's command line.
func (d *demo) towctl(ctx context.Context, args ...string) ([]byte, error) {
	d.say("$ towctl %s", strings.Join(args, " "))
	return d.output(exec.CommandContext(ctx, d.bin("towctl"), args...), "towctl "+args[0])
}

// bin is where a program built from this tree lies.
func (d *demo) bin(name string) string { return filepath.Join(d.repo, "bin", name) }

// build compiles main packages of the module in dir into the bin folder.
func (d *demo) build(ctx context.Context, dir string, packages ...string) error {
	if err := os.MkdirAll(d.bin(""), 0o755); err != nil {
		return err
	}
	out, err := filepath.Abs(d.bin(""))
	if err != nil {
		return err
	}
	args := append([]string{"build", "-ldflags=-s -w", "-o", out + "/"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(d.repo, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err = d.output(cmd, "go build "+strings.Join(packages, " "))
	return err
}

// heartbeat says that something long is still going on.
func (d *demo) heartbeat(what string) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		start := time.Now()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				d.say("%s … %.0f s", what, time.Since(start).Seconds())
			}
		}
	}()
	return func() { close(done); <-ended }
}

// until polls what is expected to become true soon.
func until(ctx context.Context, limit time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		case <-t.C:
		}
	}
}

// fetch reads a URL inside the cluster: the machine has routes to pods and
// Services.
func fetch(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", url, resp.Status, body)
	}
	if text, ok := into.(*string); ok {
		*text = string(body)
		return nil
	}
	return json.Unmarshal(body, into)
}

// pod is the part of a Pod that the demo reads.
type pod struct {
	Metadata struct{ Name, DeletionTimestamp string }
	Status   struct {
		PodIP, Phase      string
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct{ RestartCount int }
	}
}

// pods returns those that are not being deleted.
func (d *demo) pods(ctx context.Context, namespace, selector string) ([]pod, error) {
	out, err := d.ask(ctx, nil, "-n", namespace, "get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p pod) bool { return p.Metadata.DeletionTimestamp != "" }), nil
}

// podIP returns the address of a running pod of that app.
func (d *demo) podIP(ctx context.Context, namespace, app string) (string, error) {
	list, err := d.pods(ctx, namespace, "app="+app)
	if err != nil {
		return "", err
	}
	for _, p := range list {
		if p.Status.Phase == "Running" && p.Status.PodIP != "" {
			return p.Status.PodIP, nil
		}
	}
	return "", errors.New("no running pod of app " + app)
}
