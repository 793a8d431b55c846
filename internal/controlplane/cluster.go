package controlplane

import (
	"fmt"
	"net/http"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// cluster is the connection to Kubernetes: one HTTP client, the watches, and
// reads and writes that go past them.
type cluster struct {
	scheme    *runtime.Scheme
	mapper    meta.RESTMapper
	cache     cache.Cache
	client    client.Client // reads live objects
	set       kubernetes.Interface
	discovery discovery.DiscoveryInterface

	version atomic.Pointer[string] // of Gateway API
}

// The API server's own flow control shares it out fairly; these only keep a
// controller that starts with thousands of statuses to write from a crawl.
const clientQPS, clientBurst = 200, 400

// connect prepares the connection. It asks nothing of the API server yet.
func connect(kubeconfig string) (*cluster, error) {
	cfg, err := loadConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg = rest.AddUserAgent(cfg, "towpath-controller")
	cfg.QPS, cfg.Burst = clientQPS, clientBurst
	web, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return newCluster(cfg, web)
}

func loadConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return cfg, nil
}

func newCluster(cfg *rest.Config, web *http.Client) (*cluster, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	mapper, err := apiutil.NewDynamicRESTMapper(cfg, web)
	if err != nil {
		return nil, fmt.Errorf("kubernetes REST mapper: %w", err)
	}
	live, err := client.New(cfg, client.Options{HTTPClient: web, Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	watches, err := cache.New(cfg, cache.Options{
		HTTPClient: web, Scheme: scheme, Mapper: mapper,
		ByObject: selections(), DefaultTransform: trim,
		ReaderFailOnMissingInformer: true,
	})
	if err != nil {
		return nil, fmt.Errorf("kubernetes cache: %w", err)
	}
	set, err := kubernetes.NewForConfigAndClient(cfg, web)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return &cluster{scheme: scheme, mapper: mapper, cache: watches, client: live, set: set, discovery: set.Discovery()}, nil
}

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("kubernetes scheme: %w", err)
		}
	}
	return s, nil
}
