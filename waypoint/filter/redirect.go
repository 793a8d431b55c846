package filter

import (
	"fmt"
	"strconv"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// redirect answers with another location.
type redirect struct {
	to   routing.Redirect
	path *pathChange
}

func newRedirect(r *routing.Redirect) (step, error) {
	path, err := newPathChange(r.Path)
	if err != nil {
		return nil, err
	}
	switch r.Code {
	case 301, 302, 303, 307, 308:
	default:
		return nil, fmt.Errorf("redirect with status %d", r.Code)
	}
	if r.Hostname != "" {
		if _, ref := wire.CanonicalAuthority(r.Hostname); ref != nil {
			return nil, fmt.Errorf("hostname %q: %w", r.Hostname, ref)
		}
	}
	return &redirect{to: *r, path: path}, nil
}

func (s *redirect) request(req *wire.Request, in Input) (*wire.Response, finisher) {
	resp := &wire.Response{Status: s.to.Code}
	resp.Header.Set("Location", s.location(req, in))
	return resp, nil
}

// location follows the rules at HTTPRequestRedirectFilter: the query is kept,
// and a port that the scheme implies is left out.
func (s *redirect) location(req *wire.Request, in Input) string {
	scheme := s.to.Scheme
	if scheme == "" {
		scheme = req.Scheme
	}
	host := s.to.Hostname
	if host == "" {
		host, _ = wire.SplitHostPort(req.Authority)
	}
	at := scheme + "://" + host
	if port := s.port(in); port != 0 && port != wellKnownPort(scheme) {
		at += ":" + strconv.Itoa(int(port))
	}
	at += s.path.of(req.Path, in.Prefix)
	if req.HasQuery {
		at += "?" + req.Query
	}
	return at
}

// port: "If redirect scheme is not-empty, the redirect port MUST be the
// well-known port associated with the redirect scheme. [...] If redirect scheme
// is empty, the redirect port MUST be the Gateway Listener port."
func (s *redirect) port(in Input) uint16 {
	if s.to.Port != 0 {
		return s.to.Port
	}
	if p := wellKnownPort(s.to.Scheme); p != 0 {
		return p
	}
	return in.Port
}

func wellKnownPort(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}
