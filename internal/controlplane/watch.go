package controlplane

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/provision"
)

// recheckCRDs is how often the API server is asked whether a missing kind has
// been installed.
const recheckCRDs = 10 * time.Second

// watched kinds of every cluster.
func coreKinds() []client.Object {
	return []client.Object{
		&corev1.Namespace{}, &corev1.Pod{}, &corev1.Service{}, &discoveryv1.EndpointSlice{},
		metadataOf(corev1.SchemeGroupVersion.WithKind("Node")),
	}
}

// ownKinds are the kinds that provision makes, of which only the metadata is
// watched: whether somebody deleted or changed what belongs to a proxy.
func ownKinds() []client.Object {
	return []client.Object{
		metadataOf(appsv1.SchemeGroupVersion.WithKind("Deployment")),
		metadataOf(corev1.SchemeGroupVersion.WithKind("ServiceAccount")),
		metadataOf(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget")),
		metadataOf(corev1.SchemeGroupVersion.WithKind("ConfigMap")),
	}
}

// gatewayKinds may be absent, each for itself: older bundles lack some.
func gatewayKinds() []client.Object {
	return []client.Object{
		&gatewayv1.GatewayClass{}, &gatewayv1.Gateway{}, &gatewayv1.HTTPRoute{}, &gatewayv1.GRPCRoute{},
	}
}

func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(kind)
	return m
}

// selections limits the watches on what provision makes to just that.
func selections() map[client.Object]cache.ByObject {
	ofProxies, err := labels.NewRequirement(mesh.LabelGatewayName, selection.Exists, nil)
	if err != nil {
		panic(err) // a constant expression
	}
	out := map[client.Object]cache.ByObject{}
	for _, kind := range ownKinds() {
		if kindOf(kind) == "ConfigMap" {
			out[kind] = cache.ByObject{Field: fields.OneTermEqualSelector(metav1.ObjectNameField, provision.RootConfigMap)}
			continue
		}
		out[kind] = cache.ByObject{Label: labels.NewSelector().Add(*ofProxies)}
	}
	return out
}

// watcher starts the informers and learns when they have synced.
type watcher struct {
	cache   cache.Cache
	present func(context.Context) (map[string]bool, error) // kinds of Gateway API that are installed
	out     chan<- event
	log     *slog.Logger
}

// run starts the informers of everything that is installed, calls synced when
// the loop has seen all of it, and goes on looking for the kinds of Gateway API
// that were missing. The cache must be running.
func (w *watcher) run(ctx context.Context, synced func()) error {
	var seen []toolscache.InformerSynced
	for _, kind := range slices.Concat(coreKinds(), ownKinds()) {
		seen = append(seen, w.untilStarted(ctx, kind))
	}
	missing, more := w.startPresent(ctx, gatewayKinds())
	if !toolscache.WaitForCacheSync(ctx.Done(), append(seen, more...)...) {
		return nil
	}
	synced()
	for said := ""; ; {
		if names := kindNames(missing); names != said {
			said = names
			w.sayMissing(ctx, names)
		}
		if !pause(ctx, recheckCRDs) {
			return nil
		}
		missing, _ = w.startPresent(ctx, missing)
	}
}

func (w *watcher) sayMissing(ctx context.Context, names string) {
	if names == "" {
		w.log.InfoContext(ctx, "all kinds of Gateway API are installed now")
		return
	}
	w.log.WarnContext(ctx, "kinds of Gateway API are not installed: carrying on without them", "kinds", names)
}

// startPresent starts those kinds that are installed and returns the others.
func (w *watcher) startPresent(ctx context.Context, kinds []client.Object) (missing []client.Object, seen []toolscache.InformerSynced) {
	present, err := w.present(ctx)
	for wait := time.Second; err != nil; present, err = w.present(ctx) {
		w.log.WarnContext(ctx, "cannot ask which kinds of Gateway API are installed", "error", err)
		if !pause(ctx, wait) {
			return nil, nil
		}
		wait = min(2*wait, recheckCRDs)
	}
	for _, kind := range kinds {
		if present[kindOf(kind)] {
			seen = append(seen, w.untilStarted(ctx, kind))
		} else {
			missing = append(missing, kind)
		}
	}
	return missing, seen
}

// untilStarted starts the informer of one kind, again and again while the API
// server does not answer. The function it returns tells whether the loop has
// seen the first list; it never does if ctx ended first.
func (w *watcher) untilStarted(ctx context.Context, kind client.Object) toolscache.InformerSynced {
	for wait := time.Second; ; wait = min(2*wait, recheckCRDs) {
		synced, err := w.start(ctx, kind)
		if err == nil {
			return synced
		}
		if ctx.Err() == nil {
			w.log.WarnContext(ctx, "cannot watch", "kind", kindOf(kind), "error", err)
		}
		if !pause(ctx, wait) {
			return func() bool { return false }
		}
	}
}

func (w *watcher) start(ctx context.Context, kind client.Object) (toolscache.InformerSynced, error) {
	informer, err := w.cache.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, err
	}
	registration, err := informer.AddEventHandler(handler{ctx: ctx, out: w.out})
	if err != nil {
		return nil, err
	}
	return registration.HasSynced, nil
}

func kindNames(kinds []client.Object) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = kindOf(k)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// presentGatewayKinds asks the API server's discovery, and notes the version of
// what is installed. A group that does not exist has no kinds.
func (c *cluster) presentGatewayKinds(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	list, err := c.discovery.ServerResourcesForGroupVersion(gatewayv1.GroupVersion.String())
	if apierrors.IsNotFound(err) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") {
			out[r.Kind] = true
		}
	}
	return out, c.noteVersion(ctx)
}

// classCRD stands for all CRDs of Gateway API: they are installed together.
const classCRD = "gatewayclasses.gateway.networking.k8s.io"

func (c *cluster) noteVersion(ctx context.Context) error {
	crd := metadataOf(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	err := c.client.Get(ctx, types.NamespacedName{Name: classCRD}, crd)
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil // unknown, and said so in the status of the GatewayClass
	}
	if err != nil {
		return err
	}
	version := crd.Annotations[consts.BundleVersionAnnotation]
	c.version.Store(&version)
	return nil
}

// bundleVersion is the version of the Gateway API that is installed, as its CRDs
// say; empty when there is none or it cannot be told.
func (c *cluster) bundleVersion() string {
	if v := c.version.Load(); v != nil {
		return *v
	}
	return ""
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
