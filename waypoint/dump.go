package waypoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// Dump describes the tables served, one list of lines for each Service, for
// the config dump. The text is for people.
func (p *Proxy) Dump() any {
	out := map[string][]string{}
	for key, t := range p.tables.load() {
		out[key.String()] = describeTable(t.spec)
	}
	return out
}

func describeTable(t *routing.Table) []string {
	var lines []string
	if t.ClientNamespace != "" {
		lines = append(lines, "for clients of namespace "+t.ClientNamespace)
	}
	for i := range t.Listeners {
		l := &t.Listeners[i]
		lines = append(lines, describeListener(l))
		for j := range l.Rules {
			lines = append(lines, describeRule(&l.Rules[j])...)
		}
	}
	return lines
}

func describeListener(l *routing.Listener) string {
	protocol := "HTTP"
	if l.Protocol == routing.ProtocolTCP {
		protocol = "TCP"
	}
	if !l.Routed {
		protocol += ", passed through"
	}
	return fmt.Sprintf("port %d: %s", l.Port, protocol)
}

func describeRule(r *routing.Rule) []string {
	head := fmt.Sprintf("  %s %s/%s rule %d", r.ID.Kind, r.ID.Namespace, r.ID.Name, r.ID.Index)
	if r.ID.Section != "" {
		head += " " + r.ID.Section
	}
	if len(r.Hostnames) > 0 {
		head += " for " + strings.Join(r.Hostnames, ", ")
	}
	lines := []string{head}
	for _, m := range r.Matches {
		lines = append(lines, "    match "+describeMatch(m))
	}
	for _, f := range r.Filters {
		lines = append(lines, "    filter "+describeFilter(f))
	}
	for _, b := range r.Backends {
		lines = append(lines, "    backend "+describeBackend(b))
	}
	return lines
}

func describeMatch(m routing.Match) string {
	kinds := map[routing.PathKind]string{routing.PathPrefix: "prefix", routing.PathExact: "exact", routing.PathRegex: "regex"}
	parts := []string{kinds[m.Path.Kind] + " " + m.Path.Value}
	if m.Method != "" {
		parts = append(parts, "method "+m.Method)
	}
	for _, h := range m.Headers {
		parts = append(parts, describeValue("header", h))
	}
	for _, q := range m.Query {
		parts = append(parts, describeValue("query", q))
	}
	return strings.Join(parts, ", ")
}

func describeValue(what string, v routing.ValueMatch) string {
	sign := "="
	if v.Kind == routing.ValueRegex {
		sign = "~"
	}
	return what + " " + v.Name + sign + v.Value
}

func describeFilter(f routing.Filter) string {
	switch {
	case f.Invalid != "":
		return "invalid: " + f.Invalid
	case f.RequestHeaders != nil:
		return "request headers"
	case f.ResponseHeaders != nil:
		return "response headers"
	case f.Redirect != nil:
		return fmt.Sprintf("redirect %d", f.Redirect.Code)
	case f.Rewrite != nil:
		return "rewrite"
	case f.Mirror != nil:
		return fmt.Sprintf("mirror to %s:%d", f.Mirror.Service, f.Mirror.Port)
	case f.CORS != nil:
		return "CORS"
	}
	return "nothing"
}

func describeBackend(b routing.Backend) string {
	s := fmt.Sprintf("%s:%d weight %d", b.Service, b.Port, b.Weight)
	if b.H2C {
		s += ", h2c"
	}
	if b.Invalid != "" {
		s += ", invalid: " + b.Invalid
	}
	return s
}

// Served returns the Services that have a table, sorted.
func (p *Proxy) Served() []mesh.ServiceKey {
	return slices.SortedFunc(maps.Keys(p.tables.load()), func(a, b mesh.ServiceKey) int {
		return strings.Compare(a.String(), b.String())
	})
}
