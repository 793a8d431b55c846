package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"time"

	"github.com/towpath-mesh/towpath/conformance/cluster"
)

//go:embed shop.yaml
var shopYAML []byte

//go:embed jaeger.yaml
var jaegerYAML []byte

// programs of Towpath's image.
var programs = []string{"controller", "node-agent", "ztunnel", "waypoint", "towpath-cni"}

func (d *demo) bringUp(ctx context.Context) error {
	c, err := cluster.Up(ctx, cluster.Options{Log: d.out})
	if err != nil {
		return err
	}
	d.cluster = c
	built, err := cluster.Build(ctx, d.out, "kubectl")
	if err != nil {
		return err
	}
	d.kubectlPath = built[0]
	d.say("KUBECONFIG=%s", c.Kubeconfig())
	return nil
}

// loadTowpath builds the image and loads it into both nodes. Its tag names its
// content, so that an older build that runs is replaced.
func (d *demo) loadTowpath(ctx context.Context) error {
	packages := []string{"./cmd/towctl"}
	for _, p := range programs {
		packages = append(packages, "./cmd/"+p)
	}
	stop := d.heartbeat("compiling")
	err := d.build(ctx, ".", packages...)
	stop()
	if err != nil {
		return err
	}
	var files []cluster.File
	for _, p := range programs {
		files = append(files, cluster.File{Path: "/usr/local/bin/" + p, Source: d.bin(p), Mode: 0o755})
	}
	d.image, err = tagged(towpathImage, files)
	if err != nil {
		return err
	}
	d.say("%s", d.image)
	return d.cluster.LoadImage(ctx, cluster.Image{Names: []string{d.image}, Files: files})
}

// tagged appends a hash of the files' content to the image's name.
func tagged(name string, files []cluster.File) (string, error) {
	h := sha256.New()
	for _, f := range files {
		content, err := os.ReadFile(f.Source)
		if err != nil {
			return "", err
		}
		h.Write(content)
	}
	return fmt.Sprintf("%s-%x", name, h.Sum(nil)[:6]), nil
}

// install runs what a user runs, with the local image.
func (d *demo) install(ctx context.Context) error {
	_, err := d.towctl(ctx, "install", "--image", d.image,
		"--otlp-endpoint", "http://jaeger.observability:4317", "--trace-sampling", fmt.Sprint(d.sampling))
	return err
}

func (d *demo) deployShop(ctx context.Context) error {
	stop := d.heartbeat("building the shop and Jaeger")
	err := d.buildShop(ctx)
	stop()
	if err != nil {
		return err
	}
	// A run before this one may have left its label and route.
	if err := d.reset(ctx); err != nil {
		return err
	}
	if err := d.apply(ctx, "jaeger.yaml", jaegerYAML); err != nil {
		return err
	}
	if err := d.apply(ctx, "shop.yaml", d.shop); err != nil {
		return err
	}
	for _, deployment := range []string{"customer", "frontend", "catalog-v1", "catalog-v2", "prices"} {
		if _, err := d.ask(ctx, nil, "-n", "shop", "rollout", "status", "deployment/"+deployment, "--timeout=120s"); err != nil {
			return err
		}
	}
	_, err = d.ask(ctx, nil, "-n", "observability", "rollout", "status", "deployment/jaeger", "--timeout=120s")
	return err
}

func (d *demo) buildShop(ctx context.Context) error {
	if err := d.build(ctx, "conformance/demo", "./shop"); err != nil {
		return err
	}
	program := []cluster.File{{Path: "/shop", Source: d.bin("shop"), Mode: 0o755}}
	image, err := tagged(shopImage, program)
	if err != nil {
		return err
	}
	d.shop = bytes.ReplaceAll(shopYAML, []byte(shopImage), []byte(image))
	if err := d.cluster.LoadImage(ctx, cluster.Image{Names: []string{image}, Entrypoint: []string{"/shop"}, Files: program}); err != nil {
		return err
	}
	built, err := cluster.Build(ctx, d.out, "jaeger")
	if err != nil {
		return err
	}
	return d.cluster.LoadImage(ctx, cluster.Image{Names: []string{jaegerImage}, Entrypoint: []string{"/jaeger"},
		Files: []cluster.File{{Path: "/jaeger", Source: built[0], Mode: 0o755}}})
}

// reset brings back the state before the mesh: no label, no route, no pod
// captured. Then the pods are made anew, so that counters begin at zero.
func (d *demo) reset(ctx context.Context) error {
	if _, err := d.ask(ctx, nil, "get", "namespace", "shop"); err != nil {
		return nil
	}
	d.say("the shop is here from an earlier run: releasing it first")
	for _, args := range [][]string{
		{"-n", "shop", "delete", "httproute", "--all"},
		{"label", "namespace", "shop", "towpath.io/mesh-"},
	} {
		if _, err := d.ask(ctx, nil, args...); err != nil {
			return err
		}
	}
	if err := until(ctx, time.Minute, "release of the shop's pods", func() error { return d.enrolled(ctx, false) }); err != nil {
		return err
	}
	_, err := d.ask(ctx, nil, "-n", "shop", "rollout", "restart", "deployment", "-l", "!towpath.io/managed")
	return err
}

// next tells what to do after the demo.
func (d *demo) next() {
	fmt.Fprintf(d.out, `
The cluster stays up. Try:

  export KUBECONFIG=%s
  %s status
  kubectl -n shop get httproute catalog -o yaml
  kubectl -n shop edit httproute catalog        # other weights: in force at once
  kubectl -n towpath-system logs -l app.kubernetes.io/name=towpath-ztunnel --tail=5
  kubectl label namespace shop towpath.io/mesh- # out of the mesh again

  make clean-cluster                            # removes everything
`, d.cluster.Kubeconfig(), d.bin("towctl"))
	_ = os.Stdout.Sync()
}
