package routing

import (
	"time"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// TableKey names a Table: which proxy it is for and which parent it describes.
type TableKey struct {
	// Proxy is the waypoint or gateway that gets the table.
	Proxy mesh.ProxyKey
	// Parent is what the routes hang on.
	Parent Parent
}

// ParentKind is the kind of object that routes hang on.
type ParentKind uint8

const (
	ParentService ParentKind = iota // GAMMA: a core/v1 Service
	ParentGateway                   // a Gateway with all its listeners
)

// Parent names the object that routes hang on.
type Parent struct {
	Kind            ParentKind
	Namespace, Name string
}

// Table is everything that one proxy does for one parent. It is built and
// replaced whole, and is immutable once published.
type Table struct {
	Key       TableKey
	Listeners []Listener
	// ClientNamespace limits the table to clients of that namespace (consumer
	// routes); a client from elsewhere is refused. Empty means everybody.
	ClientNamespace string
}

// Listener is one door of the parent: a port of a Service, or a listener of a
// Gateway.
type Listener struct {
	// Port is the Service's port, or the Gateway listener's.
	Port uint16
	// Protocol is what is spoken through the door.
	Protocol Protocol
	// Routed tells a port that has routes, and so answers 404 to what no rule
	// matches, from one that only passes through this proxy: there every
	// request or connection goes to the parent's own endpoints.
	Routed bool
	// Rules in the order in which equal matches win: oldest route first, then
	// by namespace and name, then in the route's order. Which match wins is
	// waypoint/match's affair.
	Rules []Rule
}

// Protocol is what a Listener speaks.
type Protocol uint8

const (
	// ProtocolHTTP is HTTP/1.1 or HTTP/2 without TLS; which of the two is told
	// by the first bytes of the client.
	ProtocolHTTP Protocol = iota
	// ProtocolTCP is opaque: nothing waits for the client's first byte.
	ProtocolTCP
)

// RouteKind is the kind of route that a rule comes from.
type RouteKind uint8

const (
	KindHTTPRoute RouteKind = iota
	KindGRPCRoute
)

func (k RouteKind) String() string {
	if k == KindGRPCRoute {
		return "GRPCRoute"
	}
	return "HTTPRoute"
}

// RuleID names a rule for logs and telemetry. It is never parsed or joined into
// a string to look something up.
type RuleID struct {
	Kind            RouteKind
	Namespace, Name string
	// Index counts the rules of the route from 0; Section is its name, if any.
	Index   int
	Section string
}

// Rule says what to do with requests that match.
type Rule struct {
	ID RuleID
	// Hostnames limit the rule to requests of these authorities: exact names in
	// lower case, or "*." and a suffix. Empty means all; always empty below a
	// Service, where the destination address decides (GEP-1294).
	Hostnames []string
	// Matches are alternatives. Never empty: a rule without any in the API has
	// the one that matches every path by the prefix "/".
	Matches []Match
	Filters []Filter
	// Backends share the requests by weight. Empty, or weights that add up to
	// zero, without a redirect among the filters: 500.
	Backends []Backend
	Timeouts Timeouts
	Retry    *Retry
}

// Match is a conjunction.
type Match struct {
	Path PathMatch
	// Method is empty for any.
	Method  string
	Headers []ValueMatch // names in lower case
	Query   []ValueMatch
}

// PathKind says how a path is compared.
type PathKind uint8

const (
	// PathPrefix compares element by element: /abc matches /abc and /abc/d but
	// not /abcd. A trailing slash of the value is ignored.
	PathPrefix PathKind = iota
	PathExact
	// PathRegex is an RE2 expression that must match the whole path.
	PathRegex
)

// PathMatch compares the path, without its query.
type PathMatch struct {
	Kind  PathKind
	Value string
}

// ValueKind says how the value of a header or parameter is compared.
type ValueKind uint8

const (
	ValueExact ValueKind = iota
	ValueRegex           // RE2, the whole value
)

// ValueMatch compares one header or one query parameter.
type ValueMatch struct {
	Kind        ValueKind
	Name, Value string
}

// Backend is one destination of a rule.
type Backend struct {
	Service mesh.ServiceKey
	Port    uint16
	// Weight is relative to the other backends of the rule; 0 gets nothing.
	Weight uint32
	// Filters run for requests to this backend only, after the rule's own.
	Filters []Filter
	// H2C says that the endpoints speak HTTP/2 without TLS (appProtocol, or a
	// GRPCRoute).
	H2C bool
	// Invalid, when not empty, is why the reference cannot be followed. The
	// backend's share of requests is answered with 500.
	Invalid string
}

// Timeouts of a rule. Zero means none.
type Timeouts struct {
	// Request bounds the whole exchange, retries included; 504 when it is over.
	Request time.Duration
	// BackendRequest bounds each attempt.
	BackendRequest time.Duration
}

// Retry says which failures are tried again.
type Retry struct {
	// Attempts are in addition to the first.
	Attempts int
	Backoff  time.Duration
	Codes    []int
}
