package towctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/towpath-mesh/towpath/manifests"
)

type installOptions struct {
	values     manifests.Values
	gatewayAPI string
	dryRun     bool
	wait       time.Duration
}

func installCommand(o *options, version string) *cobra.Command {
	i := &installOptions{values: manifests.Defaults(version)}
	c := &cobra.Command{
		Use:   "install",
		Short: "Install Towpath, or bring an installation to this version and these settings",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			i.values.Namespace = o.namespace
			return i.run(c.Context(), o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&i.values.Image, "image", i.values.Image, "container image of all programs")
	f.StringVar(&i.values.TrustDomain, "trust-domain", i.values.TrustDomain, "SPIFFE trust domain of the mesh")
	f.StringVar(&i.values.ClusterDomain, "cluster-domain", i.values.ClusterDomain, "DNS domain of the cluster")
	f.StringVar(&i.values.OTLPEndpoint, "otlp-endpoint", "", "OTLP/gRPC receiver for traces, e.g. http://jaeger.observability:4317 (default: no traces)")
	f.Float64Var(&i.values.TraceSampling, "trace-sampling", i.values.TraceSampling, "share of new traces that is sampled, 0 to 1")
	f.IntVar(&i.values.Replicas, "replicas", i.values.Replicas, "replicas of the controller")
	f.StringVar(&i.gatewayAPI, "gateway-api", "auto", "Gateway API CRDs v1.6.3: auto (standard channel if there are none), standard, experimental or none")
	f.BoolVar(&i.dryRun, "dry-run", false, "print the manifests and change nothing")
	f.DurationVar(&i.wait, "wait", 3*time.Minute, "how long to wait for every component to be ready; 0 does not wait")
	return c
}

func (i *installOptions) run(ctx context.Context, o *options, out io.Writer) error {
	rendered, err := manifests.Render(i.values)
	if err != nil {
		return err
	}
	if i.dryRun {
		_, err := out.Write(rendered)
		return err
	}
	objects, err := parse(rendered)
	if err != nil {
		return err
	}
	c, err := o.connect()
	if err != nil {
		return err
	}
	if _, err := c.version(ctx); err != nil {
		return err
	}
	crds, err := i.crds(ctx, c, out)
	if err != nil {
		return err
	}
	objects = append(crds, objects...)
	order(objects)
	if err := c.apply(ctx, objects, func(s string) { fmt.Fprintf(out, "applied  %s\n", s) }); err != nil {
		return err
	}
	if i.wait == 0 {
		return nil
	}
	return c.waitReady(ctx, o.namespace, i.wait, out)
}

// crdGVR is where CustomResourceDefinitions live.
var crdGVR = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// versionAnnotation is Gateway API's mark on its CRDs.
const versionAnnotation = "gateway.networking.k8s.io/bundle-version"

// crds decides which Gateway API CRDs to bring: in a cluster that has some,
// they are somebody's and are kept.
func (i *installOptions) crds(ctx context.Context, c *cluster, out io.Writer) ([]*unstructured.Unstructured, error) {
	channel := i.gatewayAPI
	if channel == "none" {
		return nil, nil
	}
	if channel == "auto" {
		crd, err := c.dynamic.Resource(crdGVR).Get(ctx, "httproutes.gateway.networking.k8s.io", metav1.GetOptions{})
		if err == nil {
			fmt.Fprintf(out, "kept     Gateway API CRDs %s, already installed\n", crd.GetAnnotations()[versionAnnotation])
			return nil, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
		channel = "standard"
	}
	stream, err := manifests.GatewayAPI(channel)
	if err != nil {
		return nil, err
	}
	return parse(stream)
}

// waitReady waits for every workload of the installation.
func (c *cluster) waitReady(ctx context.Context, namespace string, limit time.Duration, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last []Component
	err := poll(ctx, func() (bool, error) {
		var err error
		last, err = c.components(ctx, namespace)
		if err != nil {
			return false, err
		}
		for _, comp := range last {
			if !comp.Up() {
				return false, nil
			}
		}
		return len(last) > 0, nil
	}, "components are not ready")
	for _, comp := range last {
		fmt.Fprintf(out, "%-8s %s %d/%d\n", comp.word(), comp.Name, comp.Ready, comp.Desired)
	}
	if err != nil {
		return fmt.Errorf("%w within %s; see: kubectl -n %s get pods, kubectl -n %s get events", err, limit, namespace, namespace)
	}
	return nil
}

func uninstallCommand(o *options) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Release every pod from the mesh and remove Towpath; Gateway API's CRDs and your routes stay",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), wait)
			defer cancel()
			return uninstall(ctx, o, c.OutOrStdout())
		},
	}
	c.Flags().DurationVar(&wait, "wait", 3*time.Minute, "how long to wait until everything is gone")
	return c
}
