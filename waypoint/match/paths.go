package match

import (
	"slices"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// paths finds the best entry for a request of one host. Kinds come in this
// order: exact path, prefixes from long to short, expressions, and the prefix
// "/" last. Gateway API leaves the place of expressions open; "/" is what a
// rule without a path means, and must not hide them.
type paths struct {
	exact    map[string][]*entry
	root     node
	patterns []*entry
}

// node is a path segment of the prefix tree. The root's own entries are those
// of the prefix "/".
type node struct {
	children map[string]*node
	entries  []*entry
}

type pathsBuilder struct{ p *paths }

func newPathsBuilder() *pathsBuilder {
	return &pathsBuilder{p: &paths{exact: map[string][]*entry{}}}
}

func (b *pathsBuilder) add(e *entry) {
	switch e.kind {
	case routing.PathExact:
		b.p.exact[e.path] = append(b.p.exact[e.path], e)
	case routing.PathRegex:
		b.p.patterns = append(b.p.patterns, e)
	default:
		n := b.p.root.descend(e.path)
		n.entries = append(n.entries, e)
	}
}

// descend returns the node of a prefix, making what is missing.
func (n *node) descend(prefix string) *node {
	if prefix == "" {
		return n
	}
	for segment := range strings.SplitSeq(prefix[1:], "/") {
		next := n.children[segment]
		if next == nil {
			next = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[segment] = next
		}
		n = next
	}
	return n
}

func (b *pathsBuilder) build() *paths {
	for _, list := range b.p.exact {
		sortEntries(list)
	}
	sortEntries(b.p.patterns)
	b.p.root.sort()
	return b.p
}

func (n *node) sort() {
	sortEntries(n.entries)
	for _, c := range n.children {
		c.sort()
	}
}

func sortEntries(list []*entry) { slices.SortStableFunc(list, compareEntries) }

func (p *paths) find(req *wire.Request) (Result, bool) {
	if r, ok := first(p.exact[req.Path], req); ok {
		return r, true
	}
	if r, ok := p.findPrefix(req); ok {
		return r, true
	}
	for _, e := range p.patterns {
		if e.pattern.MatchString(req.Path) && e.matches(req) {
			return e.result, true
		}
	}
	return first(p.root.entries, req)
}

// findPrefix tries the longest prefix first. The path is walked once and the
// nodes passed that have entries are kept.
func (p *paths) findPrefix(req *wire.Request) (Result, bool) {
	if len(p.root.children) == 0 || !strings.HasPrefix(req.Path, "/") {
		return Result{}, false
	}
	var space [16]*node
	passed := space[:0]
	n, rest := &p.root, req.Path[1:]
	for more := true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if n = n.children[segment]; n == nil {
			break
		}
		if len(n.entries) > 0 {
			passed = append(passed, n)
		}
	}
	for _, n := range slices.Backward(passed) {
		if r, ok := first(n.entries, req); ok {
			return r, true
		}
	}
	return Result{}, false
}

// first returns the first entry that holds; the list is in order of precedence
// and its paths match already.
func first(list []*entry, req *wire.Request) (Result, bool) {
	for _, e := range list {
		if e.matches(req) {
			return e.result, true
		}
	}
	return Result{}, false
}
