package routing

import (
	"fmt"
	"strconv"
	"strings"
)

// String returns the table as text, one line for each thing: for goldens,
// config dumps and people. It says everything that the table says, so two tables
// with one text do the same. It is never parsed.
func (t *Table) String() string {
	var p printer
	p.line(0, "table %s for %s%s", t.Key.Proxy, t.Key.Parent, clients(t.ClientNamespace))
	for i := range t.Listeners {
		p.listener(&t.Listeners[i])
	}
	return p.String()
}

func (p Parent) String() string {
	kind := "Service"
	if p.Kind == ParentGateway {
		kind = "Gateway"
	}
	return kind + " " + p.Namespace + "/" + p.Name
}

// String returns "kind namespace/name[index]" and the rule's name, if any.
func (id RuleID) String() string {
	s := fmt.Sprintf("%s %s/%s[%d]", id.Kind, id.Namespace, id.Name, id.Index)
	if id.Section != "" {
		s += " " + strconv.Quote(id.Section)
	}
	return s
}

func (p Protocol) String() string {
	if p == ProtocolTCP {
		return "TCP"
	}
	return "HTTP"
}

func clients(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " clients " + namespace
}

// printer collects indented lines.
type printer struct{ strings.Builder }

func (p *printer) line(depth int, format string, args ...any) {
	p.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

func (p *printer) listener(l *Listener) {
	what := "passes through"
	if l.Routed {
		what = "routed"
	}
	p.line(1, "port %d %s %s", l.Port, l.Protocol, what)
	for i := range l.Rules {
		p.rule(&l.Rules[i])
	}
}

func (p *printer) rule(r *Rule) {
	p.line(2, "%s", r.ID)
	if len(r.Hostnames) > 0 {
		p.line(3, "hostnames %s", strings.Join(r.Hostnames, " "))
	}
	for _, m := range r.Matches {
		p.line(3, "match %s", m)
	}
	p.filters(3, r.Filters)
	for _, b := range r.Backends {
		p.backend(b)
	}
	if r.Timeouts != (Timeouts{}) {
		p.line(3, "timeouts request %s backend-request %s", r.Timeouts.Request, r.Timeouts.BackendRequest)
	}
	if r.Retry != nil {
		p.line(3, "retry %d backoff %s codes %v", r.Retry.Attempts, r.Retry.Backoff, r.Retry.Codes)
	}
}

// String returns the conditions of a match in the order path, method, headers,
// query; "=" compares exactly, "~" by expression, "^" by prefix.
func (m Match) String() string {
	out := []string{"path" + [...]string{PathPrefix: "^", PathExact: "=", PathRegex: "~"}[m.Path.Kind] + m.Path.Value}
	if m.Method != "" {
		out = append(out, "method="+m.Method)
	}
	for _, h := range m.Headers {
		out = append(out, "header "+h.String())
	}
	for _, q := range m.Query {
		out = append(out, "query "+q.String())
	}
	return strings.Join(out, ", ")
}

func (m ValueMatch) String() string {
	return m.Name + [...]string{ValueExact: "=", ValueRegex: "~"}[m.Kind] + m.Value
}

func (p *printer) backend(b Backend) {
	p.line(3, "backend %s:%d weight %d%s%s", b.Service, b.Port, b.Weight, h2c(b.H2C), invalid(b.Invalid))
	p.filters(4, b.Filters)
}

func (p *printer) filters(depth int, list []Filter) {
	for _, f := range list {
		p.line(depth, "%s", f)
	}
}

// String returns the filter's kind and all its fields.
func (f Filter) String() string {
	switch {
	case f.Invalid != "":
		return "500:" + invalid(f.Invalid)
	case f.RequestHeaders != nil:
		return "request headers" + f.RequestHeaders.String()
	case f.ResponseHeaders != nil:
		return "response headers" + f.ResponseHeaders.String()
	case f.Redirect != nil:
		r := f.Redirect
		return fmt.Sprintf("redirect %d%s%s%s%s", r.Code, field("scheme", r.Scheme), field("hostname", r.Hostname), number("port", int(r.Port)), r.Path)
	case f.Rewrite != nil:
		return "rewrite" + field("hostname", f.Rewrite.Hostname) + f.Rewrite.Path.String()
	case f.Mirror != nil:
		m := f.Mirror
		return fmt.Sprintf("mirror %s:%d %d/%d%s%s", m.Service, m.Port, m.Numerator, m.Denominator, h2c(m.H2C), invalid(m.Invalid))
	case f.CORS != nil:
		c := f.CORS
		return fmt.Sprintf("cors origins %v methods %v headers %v expose %v credentials %t max-age %d",
			c.AllowOrigins, c.AllowMethods, c.AllowHeaders, c.ExposeHeaders, c.AllowCredentials, c.MaxAge)
	}
	return "nothing"
}

func (h *HeaderChange) String() string {
	var out strings.Builder
	for _, x := range h.Set {
		fmt.Fprintf(&out, " set %s=%q", x.Name, x.Value)
	}
	for _, x := range h.Add {
		fmt.Fprintf(&out, " add %s=%q", x.Name, x.Value)
	}
	for _, x := range h.Remove {
		fmt.Fprintf(&out, " remove %s", x)
	}
	return out.String()
}

func (c *PathChange) String() string {
	switch {
	case c == nil:
		return ""
	case c.Prefix:
		return fmt.Sprintf(" prefix %q", c.Value)
	}
	return fmt.Sprintf(" path %q", c.Value)
}

func field(name, value string) string {
	if value == "" {
		return ""
	}
	return " " + name + " " + value
}

func number(name string, value int) string {
	if value == 0 {
		return ""
	}
	return " " + name + " " + strconv.Itoa(value)
}

func h2c(yes bool) string {
	if yes {
		return " h2c"
	}
	return ""
}

func invalid(why string) string {
	if why == "" {
		return ""
	}
	return " invalid " + strconv.Quote(why)
}
