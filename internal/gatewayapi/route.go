package gatewayapi

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// route is a route of any kind in one form: a GRPCRoute is an HTTPRoute whose
// paths are gRPC methods (gRPC over HTTP/2, "Requests") and whose backends speak
// HTTP/2.
type route struct {
	id         RouteID
	generation int64
	created    time.Time
	parentRefs []gwv1.ParentReference
	hostnames  []gwv1.Hostname
	rules      []gwv1.HTTPRouteRule
	// parents are the entries that the route's status has now.
	parents []gwv1.RouteParentStatus

	// sortName is "namespace/name", title the kind and that.
	sortName, title string

	// attachments are those of the current translation; the rest is kept from
	// one to the next.
	attachments []*attachment
	built       *built
	status      statusMemo
}

func (r *route) String() string { return r.title }

// normalize returns all routes in the order in which they win over each other:
// the older first, then by namespace and name (HTTPRouteRule.Matches). Routes of
// one age and name but of two kinds never meet at one port.
func (t *Translator) normalize(in Inputs) []*route {
	seen := make(map[any]*route, len(in.HTTPRoutes)+len(in.GRPCRoutes))
	out := make([]*route, 0, len(in.HTTPRoutes)+len(in.GRPCRoutes))
	for _, r := range in.HTTPRoutes {
		out = append(out, reuse(t.routes, seen, any(r), func() *route { return routeOfHTTP(r) }))
	}
	for _, r := range in.GRPCRoutes {
		out = append(out, reuse(t.routes, seen, any(r), func() *route { return routeOfGRPC(r) }))
	}
	t.routes = seen
	for _, r := range out {
		r.attachments = nil
	}
	slices.SortFunc(out, func(a, b *route) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.sortName, b.sortName), cmp.Compare(a.id.Kind, b.id.Kind))
	})
	return out
}

func routeOfHTTP(r *gwv1.HTTPRoute) *route {
	n := newRoute(routing.KindHTTPRoute, r, r.Spec.CommonRouteSpec)
	n.hostnames, n.rules, n.parents = r.Spec.Hostnames, r.Spec.Rules, r.Status.Parents
	return n
}

func routeOfGRPC(r *gwv1.GRPCRoute) *route {
	n := newRoute(routing.KindGRPCRoute, r, r.Spec.CommonRouteSpec)
	n.hostnames, n.parents = r.Spec.Hostnames, r.Status.Parents
	for i := range r.Spec.Rules {
		n.rules = append(n.rules, ruleOfGRPC(&r.Spec.Rules[i]))
	}
	return n
}

func newRoute(kind routing.RouteKind, o metav1.Object, spec gwv1.CommonRouteSpec) *route {
	name := o.GetNamespace() + "/" + o.GetName()
	return &route{
		id:         RouteID{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()},
		generation: o.GetGeneration(), created: o.GetCreationTimestamp().Time,
		parentRefs: spec.ParentRefs,
		sortName:   name, title: kind.String() + " " + name,
	}
}

func ruleOfGRPC(g *gwv1.GRPCRouteRule) gwv1.HTTPRouteRule {
	out := gwv1.HTTPRouteRule{Name: g.Name, Filters: filtersOfGRPC(g.Filters), SessionPersistence: g.SessionPersistence}
	for _, m := range g.Matches {
		match := gwv1.HTTPRouteMatch{Path: pathOfMethod(m.Method)}
		for _, h := range m.Headers {
			match.Headers = append(match.Headers, gwv1.HTTPHeaderMatch{
				Type: (*gwv1.HeaderMatchType)(h.Type), Name: gwv1.HTTPHeaderName(h.Name), Value: h.Value,
			})
		}
		out.Matches = append(out.Matches, match)
	}
	for _, b := range g.BackendRefs {
		out.BackendRefs = append(out.BackendRefs, gwv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: filtersOfGRPC(b.Filters)})
	}
	return out
}

func filtersOfGRPC(list []gwv1.GRPCRouteFilter) []gwv1.HTTPRouteFilter {
	var out []gwv1.HTTPRouteFilter
	for _, f := range list {
		out = append(out, gwv1.HTTPRouteFilter{
			Type:                   gwv1.HTTPRouteFilterType(f.Type),
			RequestHeaderModifier:  f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror:          f.RequestMirror,
			ExtensionRef:           f.ExtensionRef,
		})
	}
	return out
}

// pathOfMethod turns a method match into the match of the path
// "/" Service-Name "/" method-name. nil matches every path.
func pathOfMethod(m *gwv1.GRPCMethodMatch) *gwv1.HTTPPathMatch {
	if m == nil {
		return nil
	}
	kind := gwv1.GRPCMethodMatchExact
	if m.Type != nil {
		kind = *m.Type
	}
	service, method := deref(m.Service), deref(m.Method)
	switch {
	case service == "" && method == "":
		return nil
	case kind == gwv1.GRPCMethodMatchRegularExpression:
		return pathMatch(gwv1.PathMatchRegularExpression, "/"+anyOr(service)+"/"+anyOr(method))
	case kind != gwv1.GRPCMethodMatchExact:
		return pathMatch(gwv1.PathMatchType(kind), "") // refused when it is built
	case method == "":
		return pathMatch(gwv1.PathMatchPathPrefix, "/"+service)
	case service == "":
		return pathMatch(gwv1.PathMatchRegularExpression, "/[^/]+/"+regexp.QuoteMeta(method))
	}
	return pathMatch(gwv1.PathMatchExact, "/"+service+"/"+method)
}

func anyOr(expression string) string {
	if expression == "" {
		return "[^/]+"
	}
	return "(?:" + expression + ")"
}

func pathMatch(kind gwv1.PathMatchType, value string) *gwv1.HTTPPathMatch {
	return &gwv1.HTTPPathMatch{Type: &kind, Value: &value}
}

// deref returns the zero value for nil.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
