package ztunnel

import (
	"net/netip"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// arrival is a CONNECT that has come for a pod, as far as admitting it goes.
type arrival struct {
	authority hbone.Authority
	peer      spiffeid.ID
	// source is whom the peer speaks for; the peer itself, unless it asserts
	// another one.
	source spiffeid.ID
	// local is the address at which the tunnel came in; one of the pod's.
	local netip.Addr
	// told is the client's address as the peer tells it, seen the one from
	// which the tunnel came. told may be zero.
	told, seen netip.Addr
}

// destination returns where in the pod the tunnel leads: an address of the pod
// itself, or what a host name of a Service means here. It is pure, as decide is.
func (a arrival) destination(w *mesh.World, self *mesh.Workload) (netip.AddrPort, *mesh.Service, error) {
	dst, isAddr := a.authority.AddrPort()
	if !isAddr {
		return a.byHostname(w, self)
	}
	if dst.Addr() != a.local && !slices.Contains(self.Addresses, dst.Addr()) {
		return dst, nil, refuse(WhyNotHere, "%s is no address of this pod", dst)
	}
	if isOwnPort(dst.Port()) {
		return dst, nil, refuse(WhyLoop, "%s is a port of the mesh itself", dst)
	}
	return dst, nil, nil
}

func (a arrival) byHostname(w *mesh.World, self *mesh.Workload) (netip.AddrPort, *mesh.Service, error) {
	for _, key := range w.ServicesOf(self.ID) {
		svc, ok := w.Service(key)
		if !ok || svc.Hostname != a.authority.Host {
			continue
		}
		dst, ok := w.EndpointOf(key, a.authority.Port, self.ID, a.local)
		if !ok {
			return dst, svc, refuse(WhyNoPort, "service %s has no port %d here", key, a.authority.Port)
		}
		if isOwnPort(dst.Port()) {
			return dst, svc, refuse(WhyLoop, "%s is a port of the mesh itself", dst)
		}
		return dst, svc, nil
	}
	return netip.AddrPort{}, nil, refuse(WhyNotHere, "this pod serves no %s", a.authority.Host)
}

// speaks reports whether the peer may be believed about who the source is.
func (a arrival) speaks(w *mesh.World, self mesh.WorkloadID) bool {
	return a.source == a.peer || w.MaySpeakFor(a.peer, self)
}

// clientAddress returns the address from which the application is to see the
// connection come, zero if it has to be the pod's own. What the peer tells is
// believed if it may speak for others, or if the address is known to belong to
// the source.
func (a arrival) clientAddress(w *mesh.World, self mesh.WorkloadID) netip.Addr {
	if usable(a.told, a.local) && (w.MaySpeakFor(a.peer, self) || belongsTo(w, a.told, a.source)) {
		return a.told
	}
	if usable(a.seen, a.local) {
		return a.seen
	}
	return netip.Addr{}
}

func belongsTo(w *mesh.World, addr netip.Addr, id spiffeid.ID) bool {
	wl, ok := w.WorkloadAt(addr)
	return ok && wl.Identity == id
}

// usable reports whether a connection to an application at local can come from
// the address: a unicast address of the same family that is valid beyond its
// own host.
func usable(addr, local netip.Addr) bool {
	return addr.IsValid() && addr.Is4() == local.Is4() && addr.IsGlobalUnicast()
}
