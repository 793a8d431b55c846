package gatewayapi

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
	"github.com/towpath-mesh/towpath/internal/registry"
)

// cluster is the inputs with indexes over them, and what one translation finds
// out on its way.
type cluster struct {
	in         Inputs
	classes    map[string]*gwv1.GatewayClass
	gateways   map[mesh.ProxyKey]*gwv1.Gateway
	services   map[mesh.ServiceKey]*service
	namespaces map[string]*corev1.Namespace

	wanted   map[mesh.ProxyKey]string // reasons
	problems map[problem.Problem]bool
}

// service is what of a Service matters to routes.
type service struct {
	key   mesh.ServiceKey
	ports []mesh.ServicePort
	// external and headless Services have no cluster address to bind to.
	external, headless bool
	// proxy marks the Service of one of our own proxies.
	proxy bool
	// waypoint is the value of mesh.LabelWaypoint.
	waypoint string
}

func (t *Translator) newCluster(in Inputs) *cluster {
	if in.SystemNamespace == "" {
		in.SystemNamespace = mesh.SystemNamespace
	}
	c := &cluster{
		in:         in,
		classes:    map[string]*gwv1.GatewayClass{},
		gateways:   map[mesh.ProxyKey]*gwv1.Gateway{},
		services:   map[mesh.ServiceKey]*service{},
		namespaces: map[string]*corev1.Namespace{},
		wanted:     map[mesh.ProxyKey]string{},
		problems:   map[problem.Problem]bool{},
	}
	for _, class := range in.GatewayClasses {
		if class.Spec.ControllerName == mesh.ControllerName {
			c.classes[class.Name] = class
		}
	}
	for _, gw := range in.Gateways {
		c.gateways[mesh.ProxyKey{Namespace: gw.Namespace, Name: gw.Name}] = gw
	}
	seen := make(map[*corev1.Service]*service, len(in.Services))
	for _, s := range in.Services {
		c.services[mesh.ServiceKey{Namespace: s.Namespace, Name: s.Name}] = reuse(t.services, seen, s, func() *service { return serviceOf(s) })
	}
	t.services = seen
	for _, n := range in.Namespaces {
		c.namespaces[n.Name] = n
	}
	return c
}

func serviceOf(s *corev1.Service) *service {
	_, managed := s.Labels[mesh.LabelManaged]
	return &service{
		key:      mesh.ServiceKey{Namespace: s.Namespace, Name: s.Name},
		ports:    registry.Ports(s),
		external: s.Spec.Type == corev1.ServiceTypeExternalName,
		headless: s.Spec.ClusterIP == corev1.ClusterIPNone,
		proxy:    managed && s.Labels[mesh.LabelGatewayName] != "",
		waypoint: s.Labels[mesh.LabelWaypoint],
	}
}

// carriesHTTP returns the ports to which an HTTP route may be applied.
func carriesHTTP(ports []mesh.ServicePort) []mesh.ServicePort {
	var out []mesh.ServicePort
	for _, p := range ports {
		if p.Protocol.CarriesHTTP() {
			out = append(out, p)
		}
	}
	return out
}

func (c *cluster) enrolled(namespace string) bool {
	n := c.namespaces[namespace]
	if n == nil {
		return false
	}
	ok, _ := mesh.EnrolsNamespace(namespace, c.in.SystemNamespace, n.Labels[mesh.LabelMesh])
	return ok
}

// identity of a proxy; the zero ID for a name that no proxy can have.
func (c *cluster) identity(proxy mesh.ProxyKey) spiffeid.ID {
	id, err := identity.ForServiceAccount(c.in.TrustDomain, proxy.Namespace, proxy.Name)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}

func (c *cluster) report(p problem.Problem) { c.problems[p] = true }

func (c *cluster) problemList() []problem.Problem {
	var out []problem.Problem
	for p := range c.problems {
		out = append(out, p)
	}
	problem.Sort(out)
	return out
}

func (c *cluster) wantedList() []Wanted {
	var out []Wanted
	for key, reason := range c.wanted {
		out = append(out, Wanted{Key: key, Reason: reason})
	}
	slices.SortFunc(out, func(a, b Wanted) int { return compareProxies(a.Key, b.Key) })
	return out
}

func compareProxies(a, b mesh.ProxyKey) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareServices(a, b mesh.ServiceKey) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// describePorts lists ports for a message.
func describePorts(ports []mesh.ServicePort) string {
	if len(ports) == 0 {
		return "no TCP port"
	}
	out := ""
	for i, p := range ports {
		if i > 0 {
			out += ", "
		}
		out += fmt.Sprint(p.Port)
		if p.Name != "" {
			out += " (" + p.Name + ")"
		}
	}
	return out
}
