package gatewayapi

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
)

// choice is which waypoint serves a Service, or why none does.
type choice struct {
	proxy mesh.ProxyKey
	// asked says that a label asks for the waypoint: all ports of the Service
	// pass it, routes or no routes.
	asked bool
	// refusal is set when there is no waypoint.
	refusal *refusal
}

// refusal is why something is not accepted.
type refusal struct{ reason, message string }

// labelled is an object that may carry mesh.LabelWaypoint, for messages.
type labelled struct{ kind, namespace, name string }

func (l labelled) String() string {
	if l.namespace == "" {
		return l.kind + " " + l.name
	}
	return l.kind + " " + l.namespace + "/" + l.name
}

// chooseForService picks the waypoint of producer routes: the one that the
// Service's label names, else the Namespace's, else the default one.
func (c *cluster) chooseForService(s *service) choice {
	if s.waypoint != "" {
		return c.named(s.key.Namespace, s.waypoint, labelled{"Service", s.key.Namespace, s.key.Name})
	}
	return c.chooseForNamespace(s.key.Namespace)
}

// chooseForNamespace picks the waypoint of a namespace: that of its Services
// that name none, and that of consumer routes made in it.
func (c *cluster) chooseForNamespace(namespace string) choice {
	if n := c.namespaces[namespace]; n != nil && n.Labels[mesh.LabelWaypoint] != "" {
		return c.named(namespace, n.Labels[mesh.LabelWaypoint], labelled{"Namespace", "", namespace})
	}
	if !c.enrolled(namespace) {
		return choice{refusal: c.notEnrolled(namespace)}
	}
	key := mesh.ProxyKey{Namespace: namespace, Name: mesh.DefaultWaypoint}
	if c.gateways[key] != nil {
		if why := c.unusable(key); why != "" {
			return choice{refusal: &refusal{reasonNoWaypoint, why}}
		}
	}
	return choice{proxy: key}
}

// named picks the waypoint that a label asks for.
func (c *cluster) named(namespace, name string, by labelled) choice {
	if name == mesh.WaypointNone {
		return choice{refusal: &refusal{reasonWaypointRefused, fmt.Sprintf(
			"label %s=%s on %s refuses a waypoint: remove it to have the route applied", mesh.LabelWaypoint, name, by)}}
	}
	key := mesh.ProxyKey{Namespace: namespace, Name: name}
	if c.gateways[key] == nil && name == mesh.DefaultWaypoint {
		return choice{proxy: key, asked: true}
	}
	why := c.unusable(key)
	if why == "" {
		return choice{proxy: key, asked: true}
	}
	c.report(problem.Problem{
		Kind: by.kind, Namespace: by.namespace, Name: by.name, Field: "metadata.labels[" + mesh.LabelWaypoint + "]",
		Reason: reasonNoWaypoint, Message: why,
	})
	return choice{refusal: &refusal{reasonNoWaypoint, fmt.Sprintf("label %s=%s on %s: %s", mesh.LabelWaypoint, name, by, why)}}
}

// unusable says why a Gateway is no waypoint to send traffic to; empty if it is
// one.
func (c *cluster) unusable(key mesh.ProxyKey) string {
	gw := c.gateways[key]
	switch {
	case gw == nil:
		return fmt.Sprintf("Gateway %s does not exist: make it, of class %s", key, mesh.ClassWaypoint)
	case gw.Spec.GatewayClassName != mesh.ClassWaypoint:
		return fmt.Sprintf("Gateway %s is of class %s, not %s: choose another by label %s", key, gw.Spec.GatewayClassName, mesh.ClassWaypoint, mesh.LabelWaypoint)
	case c.classes[mesh.ClassWaypoint] == nil:
		return fmt.Sprintf("GatewayClass %s does not exist with controllerName %s: install it", mesh.ClassWaypoint, mesh.ControllerName)
	}
	if r := c.refuseWaypoint(gw); r != nil {
		return fmt.Sprintf("Gateway %s is not accepted: %s", key, r.message)
	}
	return ""
}

func (c *cluster) notEnrolled(namespace string) *refusal {
	if _, why := mesh.EnrolsNamespace(namespace, c.in.SystemNamespace, mesh.MeshEnabled); why != "" {
		return &refusal{reasonNotEnrolled, fmt.Sprintf("Namespace %s is never taken into the mesh", namespace)}
	}
	return &refusal{reasonNotEnrolled, fmt.Sprintf(
		"Namespace %s is not in the mesh: label it %s=%s", namespace, mesh.LabelMesh, mesh.MeshEnabled)}
}

// want notes that a waypoint must exist. Only the default one is ever made; of
// several reasons the first in the alphabet is told, so that it does not change
// with the order of the inputs.
func (c *cluster) want(key mesh.ProxyKey, reason string) {
	if key.Name != mesh.DefaultWaypoint {
		return
	}
	if old, ok := c.wanted[key]; !ok || reason < old {
		c.wanted[key] = reason
	}
}

// markWanted notes the waypoints that routes and labels need.
func (c *cluster) markWanted(levels []*level) {
	for _, l := range levels {
		if l.choice.refusal != nil {
			continue
		}
		if l.choice.asked && l.key.client == "" {
			c.want(l.choice.proxy, fmt.Sprintf("label %s=%s", mesh.LabelWaypoint, l.choice.proxy.Name))
		}
		for _, a := range l.attachments {
			if a.refusal == nil {
				c.want(l.choice.proxy, a.route.String())
			}
		}
	}
	for _, n := range c.namespaces { // asked for ahead of any Service
		if n.Labels[mesh.LabelWaypoint] == "" {
			continue
		}
		if ch := c.chooseForNamespace(n.Name); ch.refusal == nil {
			c.want(ch.proxy, fmt.Sprintf("label %s=%s", mesh.LabelWaypoint, ch.proxy.Name))
		}
	}
}

// ours lists the Gateways of class towpath-waypoint, sorted.
func (c *cluster) ours() []*gwv1.Gateway {
	if c.classes[mesh.ClassWaypoint] == nil {
		return nil
	}
	var out []*gwv1.Gateway
	for _, gw := range c.in.Gateways {
		if gw.Spec.GatewayClassName == mesh.ClassWaypoint {
			out = append(out, gw)
		}
	}
	slices.SortFunc(out, func(a, b *gwv1.Gateway) int { return compareProxies(proxyKey(a), proxyKey(b)) })
	return out
}

func proxyKey(gw *gwv1.Gateway) mesh.ProxyKey {
	return mesh.ProxyKey{Namespace: gw.Namespace, Name: gw.Name}
}

func (c *cluster) obsolete() []mesh.ProxyKey {
	var out []mesh.ProxyKey
	for _, gw := range c.ours() {
		_, managed := gw.Labels[mesh.LabelManaged]
		if _, wanted := c.wanted[proxyKey(gw)]; managed && !wanted {
			out = append(out, proxyKey(gw))
		}
	}
	return out
}

func (c *cluster) provision() []*gwv1.Gateway {
	var out []*gwv1.Gateway
	for _, gw := range c.ours() {
		if c.refuseWaypoint(gw) == nil && gw.DeletionTimestamp == nil {
			out = append(out, gw)
		}
	}
	return out
}
