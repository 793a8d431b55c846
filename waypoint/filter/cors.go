package filter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// cors answers preflight requests and marks the answers to the others
// (HTTPCORSFilter; Fetch standard, "CORS protocol").
type cors struct {
	config  *routing.CORS
	origins []origin
	any     bool // "*" is among the origins

	methods, headers, expose list
}

// list is a comma-separated list that may hold the wildcard.
type list struct {
	any    bool
	joined string
}

func newList(items []string) list {
	return list{any: slices.Contains(items, "*"), joined: strings.Join(items, ", ")}
}

// origin is scheme://host[:port] whose host may begin with, or be, "*".
type origin struct {
	scheme, host string
	port         string
}

func newCORS(c *routing.CORS) step {
	s := &cors{config: c, methods: newList(c.AllowMethods), headers: newList(c.AllowHeaders), expose: newList(c.ExposeHeaders)}
	for _, o := range lowerAll(c.AllowOrigins) {
		if o == "*" {
			s.any = true
			continue
		}
		s.origins = append(s.origins, parseOrigin(o))
	}
	return s
}

// parseOrigin fills in the port that the scheme implies.
func parseOrigin(s string) origin {
	scheme, rest, _ := strings.Cut(s, "://")
	o := origin{scheme: scheme, host: rest}
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, ']') {
		o.host, o.port = rest[:colon], rest[colon+1:]
	} else if p := wellKnownPort(scheme); p != 0 {
		o.port = strconv.Itoa(int(p))
	}
	return o
}

func (s *cors) allows(requested string) bool {
	if s.any {
		return true
	}
	got := parseOrigin(strings.ToLower(requested))
	return slices.ContainsFunc(s.origins, func(o origin) bool {
		return o.scheme == got.scheme && o.port == got.port && matchHost(o.host, got.host)
	})
}

// matchHost: "* is a greedy match to the left, including any number of DNS
// labels to the left of its position".
func matchHost(pattern, host string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return pattern == host
	}
	return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
}

func (s *cors) request(req *wire.Request, _ Input) (*wire.Response, finisher) {
	from := req.Header.Get("Origin")
	asked := req.Header.Get("Access-Control-Request-Method")
	if from == "" {
		return nil, s.vary
	}
	allowed := s.allows(from)
	if req.Method == "OPTIONS" && asked != "" {
		resp := &wire.Response{Status: 204}
		if allowed {
			s.mark(&resp.Header, from)
			s.preflight(&resp.Header, asked, req.Header.Get("Access-Control-Request-Headers"))
		}
		s.vary(resp)
		return resp, nil
	}
	return nil, func(resp *wire.Response) {
		s.clear(&resp.Header)
		if allowed {
			s.mark(&resp.Header, from)
			s.exposed(&resp.Header)
		}
		s.vary(resp)
	}
}

// clear removes what the backend says about it: the route decides.
func (s *cors) clear(h *wire.Header) {
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"} {
		h.Del(name)
	}
}

func (s *cors) mark(h *wire.Header, from string) {
	value := from
	if s.any && !s.config.AllowCredentials {
		value = "*"
	}
	h.Set("Access-Control-Allow-Origin", value)
	if s.config.AllowCredentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
}

func (s *cors) preflight(h *wire.Header, method, headers string) {
	s.setList(h, "Access-Control-Allow-Methods", s.methods, method)
	s.setList(h, "Access-Control-Allow-Headers", s.headers, headers)
	h.Set("Access-Control-Max-Age", strconv.Itoa(s.config.MaxAge))
}

// setList echoes what was asked for where the wildcard stands beside
// credentials, for which browsers take "*" literally.
func (s *cors) setList(h *wire.Header, name string, l list, asked string) {
	value := l.joined
	if l.any {
		value = "*"
		if s.config.AllowCredentials {
			value = asked
		}
	}
	if value != "" {
		h.Set(name, value)
	}
}

func (s *cors) exposed(h *wire.Header) {
	if s.expose.joined == "" || s.expose.any && s.config.AllowCredentials {
		return
	}
	value := s.expose.joined
	if s.expose.any {
		value = "*"
	}
	h.Set("Access-Control-Expose-Headers", value)
}

// vary tells caches that the answer depends on who asks, unless it does not.
func (s *cors) vary(resp *wire.Response) {
	if s.any && !s.config.AllowCredentials {
		return
	}
	if v, _ := resp.Header.Combined("Vary"); !strings.Contains(strings.ToLower(v), "origin") {
		resp.Header.Add("Vary", "Origin")
	}
}
