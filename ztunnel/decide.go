package ztunnel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// maxHops is how many endpoints a connection is tried at.
const maxHops = 3

// Why says in one word why a connection goes where it goes, or why it is
// refused. It appears in access records and metrics.
type Why string

// Why connections go on.
const (
	WhyWaypoint    Why = "waypoint"    // the Service port is bound to a waypoint
	WhyEndpoint    Why = "endpoint"    // to an endpoint of the Service
	WhyWorkload    Why = "workload"    // to a pod by its own address
	WhySelf        Why = "self"        // the pod reaches itself through a Service
	WhyPassthrough Why = "passthrough" // the mesh knows nothing about the address
	WhyLocal       Why = "local"       // inbound, to the pod's application
)

// Why connections are refused.
const (
	WhyLoop             Why = "loop"              // to a port of the data path itself
	WhyNoPort           Why = "no_port"           // the Service has no such port
	WhyNoEndpoint       Why = "no_endpoint"       // no endpoint serves the Service port
	WhyNoWaypoint       Why = "no_waypoint"       // the waypoint is away: refused, not passed by
	WhyNoIdentity       Why = "no_identity"       // one end has no identity to prove
	WhyNotHere          Why = "not_here"          // inbound: the destination is not this pod
	WhyNotSpeaker       Why = "not_speaker"       // inbound: the peer may not speak for others
	WhyBadSource        Why = "bad_source"        // inbound: the asserted source is no identity of the mesh
	WhyNoOriginal       Why = "no_destination"    // the original destination cannot be read
	WhyHandshakeFailure Why = "handshake_failure" // inbound: never came to a tunnel
)

// Decision says where a connection goes.
type Decision struct {
	Why Why
	// Service is the one whose cluster address the client has addressed, nil if
	// it has addressed none.
	Service *mesh.Service
	// Waypoint is the one that the connection has to pass; zero if none.
	Waypoint mesh.ProxyKey
	// Hops are where to connect to: one is enough, the others are for when it
	// cannot be reached. Never empty unless the connection is refused.
	Hops []Hop
}

// Hop is one way to make the connection.
type Hop struct {
	// Address is where to connect to: the tunnel port of a waypoint or pod, or
	// the destination itself.
	Address netip.AddrPort
	// Tunnel says what to speak there.
	Tunnel mesh.Tunnel
	// Authority is what to ask the tunnel for. With a waypoint in between it is
	// what the client asked for, *not* an endpoint. Zero without a tunnel.
	Authority netip.AddrPort
	// Expect is whom to expect at the other end of the tunnel: the waypoint, if
	// there is one in between.
	Expect spiffeid.ID
	// Workload is the pod at Address, nil if the mesh knows none.
	Workload *mesh.Workload
}

// Refusal is the error of a connection that must not be made.
type Refusal struct {
	Why    Why
	Detail string
}

func (r *Refusal) Error() string { return r.Detail }

func refuse(why Why, format string, args ...any) error {
	return &Refusal{Why: why, Detail: fmt.Sprintf(format, args...)}
}

// chooser returns a random number in [0,n).
type chooser func(n int) int

// decide says where a connection of the workload source to dst goes. It is a
// pure function: w does not change, and choose is the only chance in it. The
// error is a *Refusal; the Decision then holds what is known nevertheless.
func decide(w *mesh.World, source *mesh.Workload, dst netip.AddrPort, choose chooser) (Decision, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if isOwnPort(dst.Port()) {
		return Decision{Why: WhyLoop}, refuse(WhyLoop, "%s is a port of the mesh itself", dst)
	}
	if svc, ok := w.ServiceAt(dst.Addr()); ok {
		return decideService(w, source, svc, dst, choose)
	}
	if wl, ok := w.WorkloadAt(dst.Addr()); ok {
		d := Decision{Why: WhyWorkload}
		hop, err := hopTo(source, dst, wl)
		if err != nil {
			return d, err
		}
		d.Hops = []Hop{hop}
		return d, nil
	}
	return Decision{Why: WhyPassthrough, Hops: []Hop{{Address: dst}}}, nil
}

// isOwnPort reports whether a port is one of those that the data path has in
// every pod. Connections to it that are not its own would go in circles.
func isOwnPort(port uint16) bool {
	return port == mesh.PortOutbound || port == mesh.PortPlaintext || port == mesh.PortHBONE
}

func decideService(w *mesh.World, source *mesh.Workload, svc *mesh.Service, dst netip.AddrPort, choose chooser) (Decision, error) {
	d := Decision{Why: WhyEndpoint, Service: svc}
	if wp, ok := svc.WaypointFor(source.Namespace, dst.Port()); ok {
		d.Why, d.Waypoint = WhyWaypoint, wp
		return d, d.throughWaypoint(w, source, dst, choose)
	}
	targets, ok := w.Targets(svc.Key, dst.Port())
	if !ok {
		return d, refuse(WhyNoPort, "service %s has no port %d", svc.Key, dst.Port())
	}
	targets = pick(sameFamily(targets, dst.Addr()), choose)
	if len(targets) == 0 {
		return d, refuse(WhyNoEndpoint, "service %s has no endpoint for port %d", svc.Key, dst.Port())
	}
	var last error
	for _, t := range targets {
		hop, err := hopTo(source, t.Address, t.Workload)
		if err != nil {
			last = err
			continue
		}
		d.Hops = append(d.Hops, hop)
	}
	if len(d.Hops) == 0 {
		return d, last
	}
	if d.Hops[0].Workload != nil && d.Hops[0].Workload.ID == source.ID {
		d.Why = WhySelf
	}
	return d, nil
}

// throughWaypoint fills the hops: the waypoint's pods, of which none is trusted
// to say who it is. A waypoint's identity follows from its name alone.
func (d *Decision) throughWaypoint(w *mesh.World, source *mesh.Workload, dst netip.AddrPort, choose chooser) error {
	key := mesh.ServiceKey(d.Waypoint)
	targets, _ := w.Targets(key, mesh.PortHBONE)
	targets = pick(sameFamily(targets, dst.Addr()), choose)
	if len(targets) == 0 {
		return refuse(WhyNoWaypoint, "waypoint %s of service %s has no ready pod", d.Waypoint, d.Service.Key)
	}
	expect, err := identity.ForServiceAccount(source.Identity.TrustDomain(), d.Waypoint.Namespace, d.Waypoint.Name)
	if err != nil {
		return refuse(WhyNoIdentity, "waypoint %s: %v", d.Waypoint, err)
	}
	for _, t := range targets {
		d.Hops = append(d.Hops, Hop{
			Address: t.Address, Tunnel: mesh.TunnelHBONE, Authority: dst, Expect: expect, Workload: t.Workload})
	}
	return nil
}

// hopTo leads straight to an address, of which wl may be the workload.
func hopTo(source *mesh.Workload, dst netip.AddrPort, wl *mesh.Workload) (Hop, error) {
	hop := Hop{Address: dst, Workload: wl}
	switch {
	case isOwnPort(dst.Port()):
		return hop, refuse(WhyLoop, "%s is a port of the mesh itself", dst)
	case wl == nil || wl.Tunnel != mesh.TunnelHBONE || wl.ID == source.ID:
		return hop, nil
	case !wl.Gateway.IsZero():
		// The tunnel port of a proxy leads to what it fronts, not to itself.
		return hop, nil
	case wl.Identity.IsZero():
		return hop, refuse(WhyNoIdentity, "workload %s/%s has no identity", wl.Namespace, wl.Name)
	}
	hop.Tunnel = mesh.TunnelHBONE
	hop.Address = netip.AddrPortFrom(dst.Addr(), mesh.PortHBONE)
	hop.Authority, hop.Expect = dst, wl.Identity
	return hop, nil
}

// sameFamily keeps the targets of the address family that the client uses; all
// of them if there are none.
func sameFamily(targets []mesh.Target, client netip.Addr) []mesh.Target {
	same := slices.DeleteFunc(slices.Clone(targets), func(t mesh.Target) bool {
		return t.Address.Addr().Unmap().Is4() != client.Is4()
	})
	if len(same) == 0 {
		return targets
	}
	return same
}

// pick returns up to maxHops different targets, in random order. It reorders
// its argument.
func pick(targets []mesh.Target, choose chooser) []mesh.Target {
	n := min(len(targets), maxHops)
	for i := range n {
		j := i + choose(len(targets)-i)
		targets[i], targets[j] = targets[j], targets[i]
	}
	return targets[:n]
}
