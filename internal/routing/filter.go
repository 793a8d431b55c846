package routing

import "github.com/towpath-mesh/towpath/internal/mesh"

// Filter is exactly one of its fields. Filters run in their order in the rule.
type Filter struct {
	RequestHeaders  *HeaderChange
	ResponseHeaders *HeaderChange
	Redirect        *Redirect
	Rewrite         *Rewrite
	Mirror          *Mirror
	CORS            *CORS
	// Invalid, when not empty, is why the filter cannot be applied. Requests
	// that reach it are answered with 500, never passed without it.
	Invalid string
}

// HeaderChange sets, then adds, then removes. Names keep the user's spelling
// and compare without case.
type HeaderChange struct {
	Set, Add []Header
	Remove   []string
}

// Header is one field.
type Header struct{ Name, Value string }

// Redirect answers instead of a backend.
type Redirect struct {
	// Scheme, Hostname: empty keeps the request's.
	Scheme, Hostname string
	// Port 0 keeps the request's, but for a Scheme that brings its own
	// well-known port (HTTPRequestRedirectFilter.Port).
	Port uint16
	Path *PathChange
	Code int // 301, 302, 303, 307 or 308
}

// Rewrite changes the request to the backend.
type Rewrite struct {
	Hostname string // empty keeps it
	Path     *PathChange
}

// PathChange replaces the whole path, or the prefix that the rule matched.
type PathChange struct {
	// Prefix says that only the matched prefix is replaced.
	Prefix bool
	Value  string
}

// Mirror sends a copy to a second backend and ignores the answer.
type Mirror struct {
	Service mesh.ServiceKey
	Port    uint16
	H2C     bool
	// Numerator of Denominator requests are mirrored; 1 of 1 is all.
	Numerator, Denominator uint32
	Invalid                string
}

// CORS answers preflight requests and marks the answers to the others.
type CORS struct {
	AllowOrigins     []string
	AllowMethods     []string
	AllowHeaders     []string
	ExposeHeaders    []string
	AllowCredentials bool
	MaxAge           int // seconds
}
