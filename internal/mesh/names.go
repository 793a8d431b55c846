package mesh

// Names that users write and see. They are the API of Towpath beside Gateway
// API itself.
const (
	// ControllerName is the controllerName of Towpath's GatewayClasses and the
	// key under which it writes into route statuses.
	ControllerName = "towpath.io/controller"
	// ClassGateway and ClassWaypoint are the names of the two GatewayClasses.
	ClassGateway  = "towpath"
	ClassWaypoint = "towpath-waypoint"
	// ProtocolHBONE is the listener protocol of a waypoint Gateway.
	ProtocolHBONE = "towpath.io/HBONE"
	// SystemNamespace is where Towpath installs itself unless told otherwise.
	SystemNamespace = "towpath-system"
	// DefaultTrustDomain is the SPIFFE trust domain of an installation that
	// names none.
	DefaultTrustDomain = "cluster.local"

	// LabelMesh on a Namespace with the value MeshEnabled takes its pods into
	// the mesh; on a Pod with the value MeshDisabled it keeps that pod out.
	LabelMesh    = "towpath.io/mesh"
	MeshEnabled  = "enabled"
	MeshDisabled = "disabled"
	// LabelWaypoint on a Namespace or Service names the waypoint Gateway (of
	// the same namespace) to use, or WaypointNone to refuse one.
	LabelWaypoint = "towpath.io/waypoint"
	WaypointNone  = "none"
	// DefaultWaypoint is the name of the waypoint that the controller makes.
	DefaultWaypoint = "waypoint"
	// LabelManaged marks what the controller made itself and may delete again.
	LabelManaged = "towpath.io/managed"
	// LabelGatewayName is Gateway API's label on the pods, Service and
	// ServiceAccount that belong to a Gateway (GEP-1762).
	LabelGatewayName = "gateway.networking.k8s.io/gateway-name"
	// ConditionEnrolled is the Pod condition that says whether the pod's
	// traffic is captured and it can be reached by HBONE.
	ConditionEnrolled = "towpath.io/Enrolled"
	// TokenAudience is the audience of the service account tokens with which
	// the node agent and the proxies authenticate to the controller.
	TokenAudience = "towpath.io"
)

// Ports of the data path inside a pod's network namespace (facts of the ambient
// family, with which the tunnel is wire-compatible) and of Towpath's programs.
const (
	PortOutbound  = 15001 // capture of what the pod sends, redirected
	PortPlaintext = 15006 // capture of what reaches the pod outside a tunnel, redirected
	PortHBONE     = 15008 // tunnels, in pods and in waypoints
	PortAdmin     = 15000 // admin server, loopback only
	PortMetrics   = 15020 // Prometheus metrics
	PortReady     = 15021 // readiness and liveness
	PortControl   = 15012 // the controller's config stream and certificate service, TLS
)
