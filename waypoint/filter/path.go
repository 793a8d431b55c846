package filter

import (
	"fmt"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// pathChange is a routing.PathChange whose value is in canonical form.
type pathChange struct {
	prefix bool
	value  string // "" for an empty prefix
}

func newPathChange(c *routing.PathChange) (*pathChange, error) {
	if c == nil {
		return nil, nil
	}
	value := c.Value
	if value == "" {
		if c.Prefix {
			return &pathChange{prefix: true}, nil
		}
		value = "/"
	}
	if !strings.HasPrefix(value, "/") {
		value = "/" + value
	}
	canonical, ref := wire.CanonicalPath(value)
	if ref != nil {
		return nil, fmt.Errorf("path %q: %w", c.Value, ref)
	}
	return &pathChange{prefix: c.Prefix, value: canonical}, nil
}

// of returns the changed path. The prefix rules are the table at
// HTTPPathModifier.ReplacePrefixMatch: slashes at the seam are one, and a path
// never becomes empty.
func (c *pathChange) of(path, matched string) string {
	if c == nil {
		return path
	}
	if !c.prefix {
		return c.value
	}
	rest := strings.TrimPrefix(path, strings.TrimSuffix(matched, "/"))
	if matched == "" {
		rest = "" // matched as a whole
	}
	head := strings.TrimSuffix(c.value, "/")
	if rest == "" || rest[0] == '/' {
		if head+rest == "" {
			return "/"
		}
		return head + rest
	}
	return head + "/" + rest
}

// rewrite changes the request to the backend.
type rewrite struct {
	host string
	path *pathChange
}

func newRewrite(r *routing.Rewrite) (step, error) {
	path, err := newPathChange(r.Path)
	if err != nil {
		return nil, err
	}
	s := &rewrite{path: path}
	if r.Hostname != "" {
		host, ref := wire.CanonicalAuthority(r.Hostname)
		if ref != nil {
			return nil, fmt.Errorf("hostname %q: %w", r.Hostname, ref)
		}
		s.host = host
	}
	return s, nil
}

func (s *rewrite) request(req *wire.Request, in Input) (*wire.Response, finisher) {
	if s.host != "" {
		req.Authority = s.host
	}
	req.Path = s.path.of(req.Path, in.Prefix)
	return nil, nil
}
