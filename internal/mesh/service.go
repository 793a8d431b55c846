package mesh

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ServiceKey names a Kubernetes Service.
type ServiceKey struct{ Namespace, Name string }

func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// AppProtocol is what a Service port declares to speak (appProtocol).
type AppProtocol uint8

const (
	AppUnspecified AppProtocol = iota // nothing declared: L4 unless a route says otherwise
	AppHTTP                           // http, kubernetes.io/ws
	AppH2C                            // kubernetes.io/h2c, grpc: HTTP/2 without TLS
	AppTLS                            // https, tls, kubernetes.io/wss: opaque to the mesh
	AppTCP                            // tcp and every value not known here: opaque
)

// CarriesHTTP reports whether an HTTP route may be applied to such a port.
func (p AppProtocol) CarriesHTTP() bool {
	return p == AppUnspecified || p == AppHTTP || p == AppH2C
}

// ServicePort is one TCP port of a Service. Its endpoints' ports are found by
// Name in the EndpointSlices.
type ServicePort struct {
	Name     string
	Port     uint16
	Protocol AppProtocol
}

// Service is a Kubernetes Service as the data plane sees it.
type Service struct {
	Key ServiceKey
	// Hostname is the fully qualified cluster DNS name.
	Hostname string
	// Addresses are the cluster addresses (both families); none when headless.
	Addresses []netip.Addr
	Ports     []ServicePort
	// Waypoints says which connections to the Service's addresses pass a
	// waypoint. Published only once that waypoint has been ready, and kept
	// while it is away: then the connection is refused, not sent around it.
	Waypoints []WaypointBinding
	// Speakers are the identities of the waypoints that may assert a client's
	// identity to the endpoints of this Service: those with a table in which it
	// is parent or backend.
	Speakers []spiffeid.ID
}

// WaypointBinding sends connections of some clients to some ports of a Service
// to a waypoint.
type WaypointBinding struct {
	// ClientNamespace limits the binding to clients of that namespace (consumer
	// routes); empty means every client not bound by its own namespace.
	ClientNamespace string
	// Ports are the Service ports bound; empty means all.
	Ports []uint16
	// Waypoint is the waypoint's Gateway; the Service of the same name and
	// namespace leads to its pods, port 15008.
	Waypoint ProxyKey
}

// Bindings is what routes add to a Service: see the fields of the same names.
type Bindings struct {
	Waypoints []WaypointBinding
	Speakers  []spiffeid.ID
}

// SliceKey names an EndpointSlice.
type SliceKey struct{ Namespace, Name string }

func (k SliceKey) String() string { return k.Namespace + "/" + k.Name }

// EndpointSlice is part of the endpoints of one Service: one Kubernetes
// EndpointSlice. Children name their parent, so that one changed slice is one
// small message.
type EndpointSlice struct {
	Key     SliceKey
	Service ServiceKey
	// Ports map the Service's port names to the endpoints' port numbers.
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort is a port of every endpoint of a slice.
type EndpointPort struct {
	Name string
	Port uint16
}

// Endpoint is one address behind a Service.
type Endpoint struct {
	Address netip.Addr
	// Workload is the pod behind the address; empty for an endpoint that no pod
	// stands behind (manual EndpointSlices).
	Workload WorkloadID
	// Ready endpoints get new connections; Serving ones that are not ready get
	// them only when no endpoint is ready (KEP-1672).
	Ready, Serving, Terminating bool
	Node, Zone                  string
}

// PortNumbered returns the Service's port with that number.
func (s *Service) PortNumbered(port uint16) (ServicePort, bool) {
	for _, p := range s.Ports {
		if p.Port == port {
			return p, true
		}
	}
	return ServicePort{}, false
}

// WaypointFor returns the waypoint through which a client of that namespace
// reaches the port, if any. The client's own namespace wins over the binding
// for everybody (GEP-1294: consumer routes over producer routes).
func (s *Service) WaypointFor(clientNamespace string, port uint16) (ProxyKey, bool) {
	var found ProxyKey
	for _, b := range s.Waypoints {
		if !b.hasPort(port) {
			continue
		}
		if b.ClientNamespace == clientNamespace {
			return b.Waypoint, true
		}
		if b.ClientNamespace == "" {
			found = b.Waypoint
		}
	}
	return found, !found.IsZero()
}

func (b WaypointBinding) hasPort(port uint16) bool {
	if len(b.Ports) == 0 {
		return true
	}
	for _, p := range b.Ports {
		if p == port {
			return true
		}
	}
	return false
}
