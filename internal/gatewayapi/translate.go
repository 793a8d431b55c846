package gatewayapi

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// Inputs is everything that the translation depends on. The slices may be in
// any order; the objects are not changed, and nothing of them is kept in the
// Result but in Provision.
type Inputs struct {
	GatewayClasses []*gwv1.GatewayClass
	Gateways       []*gwv1.Gateway
	HTTPRoutes     []*gwv1.HTTPRoute
	GRPCRoutes     []*gwv1.GRPCRoute
	Services       []*corev1.Service
	Namespaces     []*corev1.Namespace
	// Proxies is what is known of the proxies of Gateways; a Gateway that is
	// missing has none yet.
	Proxies map[mesh.ProxyKey]ProxyState
	// TrustDomain of the proxies' identities.
	TrustDomain spiffeid.TrustDomain
	// SystemNamespace is where Towpath runs, mesh.SystemNamespace when empty.
	SystemNamespace string
	// BundleVersion is the version of the installed Gateway API CRDs (their
	// annotation gateway.networking.k8s.io/bundle-version); empty if unknown.
	BundleVersion string
}

// ProxyState is what is known of the proxy of one Gateway.
type ProxyState struct {
	// Ready: it can take connections now.
	Ready bool
	// EverReady: it could at some time since its Gateway exists. From then on
	// its connections are refused while it is away, not sent around it.
	EverReady bool
	// Addresses at which it is reached: those of its Service.
	Addresses []string
	// Problem is why it is not Ready, if somebody knows.
	Problem string
}

// RouteID names a route object.
type RouteID struct {
	Kind            routing.RouteKind
	Namespace, Name string
}

// Wanted is a waypoint that must exist though nobody made it.
type Wanted struct {
	Key mesh.ProxyKey
	// Reason says what needs it, for the Gateway's annotation and the event.
	Reason string
}

// Result is what the translation says. All slices are sorted.
type Result struct {
	// Tables: one for each proxy and parent.
	Tables []*routing.Table
	// Bindings: what the routes add to Services.
	Bindings map[mesh.ServiceKey]mesh.Bindings
	// Wanted are the waypoints to be made, existing ones included.
	Wanted []Wanted
	// Obsolete are waypoint Gateways that the controller made (they carry
	// mesh.LabelManaged) and that nothing needs any more.
	Obsolete []mesh.ProxyKey
	// Provision are the accepted Gateways, each of which needs a proxy.
	Provision []*gwv1.Gateway
	// Routes holds our entries of each route's status.parents, in the order of
	// its parentRefs; empty for a route from which ours are to be removed.
	// Routes that do not concern us are missing. Merge with MergeParents.
	Routes map[RouteID][]gwv1.RouteParentStatus
	// Gateways and Classes hold the statuses of those that are ours. Merge with
	// MergeGateway and MergeClass.
	Gateways map[mesh.ProxyKey]gwv1.GatewayStatus
	Classes  map[string]gwv1.GatewayClassStatus
	// Problems are what users wrote in vain and that has no status to say it in.
	Problems []problem.Problem
}

// Translate computes the routing tables and statuses of all inputs. Conditions
// carry no times: the Merge functions set them.
func Translate(in Inputs) Result {
	return new(Translator).Translate(in)
}

// Translate is the function Translate, faster.
func (t *Translator) Translate(in Inputs) Result {
	c := t.newCluster(in)
	routes := t.normalize(in)
	levels := c.attach(routes)
	for _, r := range routes {
		if len(r.attachments) == 0 {
			continue
		}
		if r.built == nil || !r.built.current(c) {
			r.built = c.build(r)
		}
		r.refuseUnusable()
	}
	resolveConflicts(levels)
	c.markWanted(levels)
	out := Result{Wanted: c.wantedList()}
	out.Tables, out.Bindings = c.tables(t, levels)
	out.Obsolete, out.Provision = c.obsolete(), c.provision()
	out.Routes = c.routeStatuses(routes)
	out.Gateways, out.Classes = c.gatewayStatuses(), c.classStatuses()
	out.Problems = c.problemList()
	return out
}
