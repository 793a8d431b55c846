package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/towpath-mesh/towpath/internal/admin"
)

// Config is everything that a controller can be told. Validate names the flag of
// each field that is wrong.
type Config struct {
	// Kubeconfig is the path of a kubeconfig; empty means $KUBECONFIG, the
	// service account of the pod, or ~/.kube/config, in that order.
	Kubeconfig string
	// Name tells the replicas apart in the leader election: the pod's name.
	Name string
	// Namespace is where Towpath is installed.
	Namespace string
	// TrustDomain of all identities that are issued.
	TrustDomain string
	// ClusterDomain is the DNS suffix of the cluster.
	ClusterDomain string

	// Listen is the address of the config stream and the certificate service.
	Listen string
	// Admin are the addresses of the admin server.
	Admin admin.Addresses

	// Image is that of the proxies that the controller makes, and ProxyReplicas
	// how many pods each of them gets.
	Image         string
	ProxyReplicas int
	// WaypointGrace is how long a waypoint that the controller made outlives the
	// last route that wanted it.
	WaypointGrace time.Duration

	// CertificateTTL is the longest lifetime of a workload's certificate.
	CertificateTTL time.Duration
	// RootLifetime is the lifetime of a root that the controller makes itself.
	RootLifetime time.Duration

	// OTLPEndpoint and TraceSampling are handed to the proxies that the controller
	// makes; an empty endpoint turns tracing off.
	OTLPEndpoint  string
	TraceSampling float64

	Log *slog.Logger
}

// minimumTTL leaves the holders of certificates time to renew them.
const minimumTTL = 10 * time.Minute

// Validate returns every fault of the config, joined, each naming its flag.
func (c Config) Validate() error {
	var errs []error
	wrong := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...)))
	}
	if c.Name == "" {
		wrong("name", "must not be empty")
	}
	if msgs := validation.IsDNS1123Label(c.Namespace); len(msgs) > 0 {
		wrong("namespace", "%q is no namespace name: %s", c.Namespace, msgs[0])
	}
	if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
		wrong("trust-domain", "%q: %w", c.TrustDomain, err)
	}
	if msgs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(msgs) > 0 {
		wrong("cluster-domain", "%q is no DNS name: %s", c.ClusterDomain, msgs[0])
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		wrong("listen", "%w", err)
	}
	if c.Image == "" {
		wrong("image", "must not be empty: the proxies that the controller makes need one")
	}
	if c.ProxyReplicas < 1 {
		wrong("proxy-replicas", "%d is less than 1", c.ProxyReplicas)
	}
	if c.WaypointGrace < 0 {
		wrong("waypoint-grace", "%v is negative", c.WaypointGrace)
	}
	if c.CertificateTTL < minimumTTL {
		wrong("certificate-ttl", "%v is shorter than %v", c.CertificateTTL, minimumTTL)
	}
	if c.RootLifetime < 2*c.CertificateTTL {
		wrong("root-lifetime", "%v is shorter than twice the lifetime of a certificate (%v)", c.RootLifetime, c.CertificateTTL)
	}
	if c.TraceSampling < 0 || c.TraceSampling > 1 {
		wrong("trace-sampling", "%v is not between 0 and 1", c.TraceSampling)
	}
	if c.Log == nil {
		errs = append(errs, errors.New("no logger"))
	}
	return errors.Join(errs...)
}
