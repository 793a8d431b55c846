package filter

import (
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// requestHeaders changes the fields of the request.
type requestHeaders struct {
	change *routing.HeaderChange
	// host is the value of a "Host" that the change sets: a header to the user,
	// the authority to us. Empty if there is none.
	host string
}

func newRequestHeaders(c *routing.HeaderChange) (step, error) {
	if err := checkChange(c); err != nil {
		return nil, err
	}
	s := &requestHeaders{change: c}
	for _, h := range c.Set {
		if wire.EqualName(h.Name, "Host") {
			host, ref := wire.CanonicalAuthority(h.Value)
			if ref != nil {
				return nil, ref
			}
			s.host = host
		}
	}
	return s, nil
}

func (s *requestHeaders) request(req *wire.Request, _ Input) (*wire.Response, finisher) {
	apply(s.change, &req.Header)
	if s.host != "" {
		req.Authority = s.host
		req.Header.Del("Host")
	}
	return nil, nil
}

// responseHeaders changes the fields of the response.
type responseHeaders struct{ finish finisher }

func newResponseHeaders(c *routing.HeaderChange) (step, error) {
	if err := checkChange(c); err != nil {
		return nil, err
	}
	return &responseHeaders{finish: func(r *wire.Response) { apply(c, &r.Header) }}, nil
}

func (s *responseHeaders) request(*wire.Request, Input) (*wire.Response, finisher) {
	return nil, s.finish
}

func checkChange(c *routing.HeaderChange) error {
	if err := checkHeaders(c.Set); err != nil {
		return err
	}
	return checkHeaders(c.Add)
}

func apply(c *routing.HeaderChange, h *wire.Header) {
	for _, f := range c.Set {
		h.Set(f.Name, f.Value)
	}
	for _, f := range c.Add {
		// "It appends to any existing values associated with the header name"
		// (HTTPHeaderFilter.Add): in one line, as in the example there.
		if old, ok := h.Combined(f.Name); ok && !wire.EqualName(f.Name, "Set-Cookie") {
			h.Set(f.Name, old+","+f.Value)
			continue
		}
		h.Add(f.Name, f.Value)
	}
	for _, name := range c.Remove {
		h.Del(name)
	}
}
