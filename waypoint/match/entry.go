package match

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// entry is one match of one rule.
type entry struct {
	kind    routing.PathKind
	path    string         // canonical; a prefix without its trailing slash, so "" for "/"
	pattern *regexp.Regexp // PathRegex only
	method  string
	headers []condition
	query   []condition
	result  Result
}

// condition is a comparison of a header or parameter.
type condition struct {
	name, value string
	pattern     *regexp.Regexp // nil for an exact comparison
}

func newEntry(rule int, m routing.Match) (*entry, error) {
	e := &entry{kind: m.Path.Kind, method: m.Method, result: Result{Rule: rule}}
	if err := e.setPath(m.Path); err != nil {
		return nil, err
	}
	var err error
	if e.headers, err = conditions(m.Headers, wire.EqualName); err != nil {
		return nil, fmt.Errorf("header match: %w", err)
	}
	sameName := func(a, b string) bool { return a == b }
	if e.query, err = conditions(m.Query, sameName); err != nil {
		return nil, fmt.Errorf("query parameter match: %w", err)
	}
	return e, nil
}

// setPath brings the path into the form that requests have.
func (e *entry) setPath(m routing.PathMatch) error {
	if m.Kind == routing.PathRegex {
		var err error
		e.pattern, err = whole(m.Value)
		e.result.Route = m.Value
		return err
	}
	path, ref := wire.CanonicalPath(m.Value)
	if ref != nil {
		return fmt.Errorf("path %q: %w", m.Value, ref)
	}
	if m.Kind == routing.PathExact {
		e.path, e.result.Route = path, path
		return nil
	}
	// "When specified, a trailing / is ignored" (PathMatchPathPrefix).
	e.path = strings.TrimSuffix(path, "/")
	e.result.Prefix, e.result.Route = e.path, e.path+"/*"
	if e.path == "" {
		e.result.Prefix = "/"
	}
	return nil
}

// whole compiles an expression that must match all of its input.
func whole(expr string) (*regexp.Regexp, error) {
	return regexp.Compile(`^(?:` + expr + `)$`)
}

// conditions compiles comparisons. "If multiple entries specify equivalent
// header names, only the first entry with an equivalent name MUST be considered
// for a match" (HTTPHeaderMatch.Name; the same for query parameters).
func conditions(list []routing.ValueMatch, same func(a, b string) bool) ([]condition, error) {
	var out []condition
next:
	for _, m := range list {
		for _, c := range out {
			if same(c.name, m.Name) {
				continue next
			}
		}
		c := condition{name: m.Name, value: m.Value}
		if m.Kind == routing.ValueRegex {
			var err error
			if c.pattern, err = whole(m.Value); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// compareEntries orders entries whose paths rank equally: "Method match.
// Largest number of header matches. Largest number of query param matches."
// (HTTPRouteRule.Matches), then the order of the rules.
func compareEntries(a, b *entry) int {
	return cmp.Or(
		cmp.Compare(boolRank(a.method != ""), boolRank(b.method != "")),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.query), len(a.query)),
		cmp.Compare(a.result.Rule, b.result.Rule),
	)
}

func boolRank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// matches compares everything but the path.
func (e *entry) matches(req *wire.Request) bool {
	if e.method != "" && e.method != req.Method {
		return false
	}
	for i := range e.headers {
		// A repeated field counts as its values in one, as RFC 9110 section 5.3
		// combines them.
		value, ok := req.Header.Combined(e.headers[i].name)
		if !ok || !e.headers[i].holds(value) {
			return false
		}
	}
	for i := range e.query {
		// The first value counts (recommended by HTTPQueryParamMatch.Name).
		value, ok := wire.QueryValue(req.Query, e.query[i].name)
		if !ok || !e.query[i].holds(value) {
			return false
		}
	}
	return true
}

func (c *condition) holds(value string) bool {
	if c.pattern != nil {
		return c.pattern.MatchString(value)
	}
	return c.value == value
}
