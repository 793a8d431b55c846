package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// Matcher finds the best match among rules. It is immutable.
type Matcher struct {
	exactHosts map[string]*paths
	// wildcards are suffixes such as ".example.com", the longest first.
	wildcards []wildcard
	anyHost   *paths
}

type wildcard struct {
	suffix string
	paths  *paths
}

// Result is the winning match.
type Result struct {
	// Rule is the index into the rules that were compiled.
	Rule int
	// Prefix is the path prefix that matched, without a trailing slash unless
	// it is "/"; empty for another kind of match.
	Prefix string
	// Route describes the path that was matched, for telemetry: the path
	// itself, the prefix and "/*", or the expression.
	Route string
}

// Compile prepares the rules. Of equal matches the one of the earlier rule
// wins. The error names the rule whose match cannot be compiled.
func Compile(rules []routing.Rule) (*Matcher, error) {
	b := builder{exact: map[string]*pathsBuilder{}, wild: map[string]*pathsBuilder{}}
	for i := range rules {
		for _, m := range rules[i].Matches {
			e, err := newEntry(i, m)
			if err != nil {
				return nil, fmt.Errorf("%s %s/%s rule %d: %w", rules[i].ID.Kind, rules[i].ID.Namespace, rules[i].ID.Name, rules[i].ID.Index, err)
			}
			b.add(rules[i].Hostnames, e)
		}
	}
	return b.build(), nil
}

// Find returns the best match. The most specific host name decides first, then
// the order of Gateway API (HTTPRouteRule.Matches).
func (m *Matcher) Find(req *wire.Request) (Result, bool) {
	if len(m.exactHosts) > 0 || len(m.wildcards) > 0 {
		if r, ok := m.findByHost(req); ok {
			return r, true
		}
	}
	if m.anyHost == nil {
		return Result{}, false
	}
	return m.anyHost.find(req)
}

func (m *Matcher) findByHost(req *wire.Request) (Result, bool) {
	host, _ := wire.SplitHostPort(req.Authority)
	if p, ok := m.exactHosts[host]; ok {
		if r, ok := p.find(req); ok {
			return r, true
		}
	}
	for _, w := range m.wildcards {
		// "*.example.com" takes one label or more, never none.
		if len(host) > len(w.suffix) && strings.HasSuffix(host, w.suffix) {
			if r, ok := w.paths.find(req); ok {
				return r, true
			}
		}
	}
	return Result{}, false
}

type builder struct {
	exact, wild map[string]*pathsBuilder
	any         *pathsBuilder
}

func (b *builder) add(hostnames []string, e *entry) {
	if len(hostnames) == 0 {
		if b.any == nil {
			b.any = newPathsBuilder()
		}
		b.any.add(e)
		return
	}
	for _, h := range hostnames {
		h = strings.ToLower(h)
		into, name := b.exact, h
		if suffix, ok := strings.CutPrefix(h, "*"); ok {
			into, name = b.wild, suffix
		}
		if into[name] == nil {
			into[name] = newPathsBuilder()
		}
		into[name].add(e)
	}
}

func (b *builder) build() *Matcher {
	m := &Matcher{exactHosts: make(map[string]*paths, len(b.exact))}
	for h, p := range b.exact {
		m.exactHosts[h] = p.build()
	}
	for suffix, p := range b.wild {
		m.wildcards = append(m.wildcards, wildcard{suffix, p.build()})
	}
	slices.SortFunc(m.wildcards, func(x, y wildcard) int {
		if len(x.suffix) != len(y.suffix) {
			return len(y.suffix) - len(x.suffix)
		}
		return strings.Compare(x.suffix, y.suffix)
	})
	if b.any != nil {
		m.anyHost = b.any.build()
	}
	return m
}
