package gatewayapi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// levelKey names the routes that are merged with each other: those of one
// Service that apply to the same clients. Levels never merge (GEP-1294).
type levelKey struct {
	service mesh.ServiceKey
	// client is the namespace whose clients the routes are for; empty for
	// producer routes, which are for everybody.
	client string
}

// level is a Service as seen by some clients: what becomes one table.
type level struct {
	key         levelKey
	service     *service
	choice      choice
	attachments []*attachment
}

// attachment is one parentRef of a route that is ours to answer for.
type attachment struct {
	route *route
	ref   gwv1.ParentReference
	index int    // of the parentRef in the route
	level *level // nil when the parent does not exist
	// ports of the Service at which the route hangs.
	ports []uint16
	// refusal is set when the route is not accepted by this parent.
	refusal *refusal
	// notes are told in the Accepted condition though it is True.
	notes []string
}

func (a *attachment) field() string { return fmt.Sprintf("spec.parentRefs[%d]", a.index) }

// refuse keeps the first reason.
func (a *attachment) refuse(reason, format string, args ...any) {
	if a.refusal == nil {
		a.refusal = &refusal{reason, fmt.Sprintf(format, args...)}
	}
}

// attach finds the parents of all routes, and the Services that pass a waypoint
// without a route.
func (c *cluster) attach(routes []*route) []*level {
	levels := map[levelKey]*level{}
	c.attachLabelled(levels)
	for _, r := range routes {
		for i := range r.parentRefs {
			a := &attachment{route: r, ref: r.parentRefs[i], index: i}
			if c.attachToService(levels, a) {
				r.attachments = append(r.attachments, a)
			}
		}
	}
	out := make([]*level, 0, len(levels))
	for _, l := range levels {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *level) int {
		return cmp.Or(compareServices(a.key.service, b.key.service), cmp.Compare(a.key.client, b.key.client))
	})
	return out
}

// attachLabelled makes the levels of Services that ask for a waypoint by label.
func (c *cluster) attachLabelled(levels map[levelKey]*level) {
	for _, s := range c.services {
		if s.external || s.headless || s.proxy || len(s.ports) == 0 {
			continue
		}
		n := c.namespaces[s.key.Namespace]
		if s.waypoint == "" && (n == nil || n.Labels[mesh.LabelWaypoint] == "") {
			continue
		}
		if ch := c.chooseForService(s); ch.asked {
			key := levelKey{service: s.key}
			levels[key] = &level{key: key, service: s, choice: ch}
		}
	}
}

// attachToService reports whether the parentRef is for the mesh, and if so what
// becomes of it.
func (c *cluster) attachToService(levels map[levelKey]*level, a *attachment) bool {
	group, kind := gwv1.GroupName, "Gateway"
	if a.ref.Group != nil {
		group = string(*a.ref.Group)
	}
	if a.ref.Kind != nil {
		kind = string(*a.ref.Kind)
	}
	if kind != "Service" {
		return false
	}
	if group != "" {
		if group == gwv1.GroupName || group == "core" { // what people copy; nobody else can mean it
			a.refuse(string(gwv1.RouteReasonNoMatchingParent), `%s: a Service is named by group: "", not %q`, a.field(), group)
			return true
		}
		return false
	}
	key := mesh.ServiceKey{Namespace: a.route.id.Namespace, Name: string(a.ref.Name)}
	if a.ref.Namespace != nil {
		key.Namespace = string(*a.ref.Namespace)
	}
	s := c.services[key]
	if s == nil {
		a.refuse(string(gwv1.RouteReasonNoMatchingParent), "%s: Service %s does not exist", a.field(), key)
		return true
	}
	a.bind(s)
	if a.refusal == nil {
		c.join(levels, a, s)
	}
	return true
}

// bind finds the ports of the Service that the parentRef means.
func (a *attachment) bind(s *service) {
	switch {
	case s.external:
		a.refuse(reasonServiceType, "%s: Service %s is of type ExternalName and has no address to bind to: use a ClusterIP Service", a.field(), s.key)
		return
	case s.headless:
		a.refuse(reasonServiceType, "%s: Service %s is headless and has no address to bind to: use a Service with a cluster IP", a.field(), s.key)
		return
	case s.proxy:
		a.refuse(reasonServiceType, "%s: Service %s belongs to a proxy of the mesh: name the application's Service", a.field(), s.key)
		return
	}
	meant := a.meant(s.ports)
	if len(meant) == 0 {
		a.refuse(string(gwv1.RouteReasonNoMatchingParent), "%s: Service %s has no TCP port %s; it has %s", a.field(), s.key, a.wanted(), describePorts(s.ports))
		return
	}
	usable := carriesHTTP(meant)
	if len(usable) == 0 {
		a.refuse(string(gwv1.RouteReasonNoMatchingParent), "%s: appProtocol of Service %s declares no HTTP on %s: set it to http, kubernetes.io/h2c or grpc, or remove it",
			a.field(), s.key, describePorts(meant))
		return
	}
	for _, p := range usable {
		a.ports = append(a.ports, p.Port)
	}
	slices.Sort(a.ports)
}

// meant returns the ports that agree with the parentRef's port and sectionName.
func (a *attachment) meant(ports []mesh.ServicePort) []mesh.ServicePort {
	var out []mesh.ServicePort
	for _, p := range ports {
		if a.ref.Port != nil && uint16(*a.ref.Port) != p.Port {
			continue
		}
		if a.ref.SectionName != nil && *a.ref.SectionName != "" && string(*a.ref.SectionName) != p.Name {
			continue
		}
		out = append(out, p)
	}
	return out
}

// wanted tells which port the parentRef asks for.
func (a *attachment) wanted() string {
	var out []string
	if a.ref.Port != nil {
		out = append(out, fmt.Sprint(*a.ref.Port))
	}
	if a.ref.SectionName != nil {
		out = append(out, fmt.Sprintf("named %q", *a.ref.SectionName))
	}
	return strings.Join(out, " ")
}

// join puts the attachment into its level, which is made when it is the first.
func (c *cluster) join(levels map[levelKey]*level, a *attachment, s *service) {
	key := levelKey{service: s.key}
	if a.route.id.Namespace != s.key.Namespace {
		key.client = a.route.id.Namespace
	}
	l := levels[key]
	if l == nil {
		l = &level{key: key, service: s}
		if key.client == "" {
			l.choice = c.chooseForService(s)
		} else {
			l.choice = c.chooseForClients(key.client)
		}
		levels[key] = l
	}
	a.level = l
	if l.choice.refusal != nil {
		a.refusal = l.choice.refusal
		return
	}
	l.attachments = append(l.attachments, a)
}

// chooseForClients picks the waypoint of consumer routes. Their clients are the
// pods of the namespace, so it must be in the mesh itself.
func (c *cluster) chooseForClients(namespace string) choice {
	if !c.enrolled(namespace) {
		return choice{refusal: c.notEnrolled(namespace)}
	}
	return c.chooseForNamespace(namespace)
}

// resolveConflicts leaves one kind of route at each port of a level: GRPCRoutes
// win over HTTPRoutes (GEP-1294, "Route types").
func resolveConflicts(levels []*level) {
	for _, l := range levels {
		winner := map[uint16]*attachment{}
		for _, a := range l.attachments {
			if a.refusal != nil || a.route.id.Kind != routing.KindGRPCRoute {
				continue
			}
			for _, port := range a.ports {
				if winner[port] == nil {
					winner[port] = a
				}
			}
		}
		for _, a := range l.attachments {
			if a.refusal == nil && a.route.id.Kind != routing.KindGRPCRoute {
				a.yield(winner)
			}
		}
	}
}

// yield gives up the ports that another kind of route has won.
func (a *attachment) yield(winner map[uint16]*attachment) {
	var kept []uint16
	var lost []string
	for _, port := range a.ports {
		if w := winner[port]; w != nil {
			lost = append(lost, fmt.Sprintf("port %d belongs to %s", port, w.route))
			continue
		}
		kept = append(kept, port)
	}
	a.ports = kept
	if len(kept) == 0 {
		a.refuse(reasonConflicted, "%s: %s: a GRPCRoute takes a port from HTTPRoutes", a.field(), strings.Join(lost, ", "))
	} else if len(lost) > 0 {
		a.notes = append(a.notes, "not applied everywhere: "+strings.Join(lost, ", "))
	}
}
