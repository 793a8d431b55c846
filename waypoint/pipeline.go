package waypoint

import (
	"context"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/filter"
	"github.com/towpath-mesh/towpath/waypoint/match"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

// handle is what happens to every request, in order.
func (c *connection) handle(ctx context.Context, req *wire.Request, w wire.Responder) {
	x := c.begin(ctx, req, w) // record, span, metrics
	defer x.end()

	if req.Refused != nil {
		x.answer(req.Refused.Status, req.Refused.Reason, req.Refused)
		return
	}
	stripUntrusted(&req.Header)

	rule, matched, ok := c.listener().find(req) // the one look at the tables
	if !ok {
		x.answer(404, reasonNoRoute, nil)
		return
	}
	x.matched(rule, matched)
	in := filter.Input{Prefix: matched.Prefix, Port: c.visitor.authority.Port()}

	x.ruleRun = rule.filters.Request(req, in)
	if x.ruleRun.Answer != nil { // a redirect, a preflight
		x.send(x.ruleRun.Answer, x.ruleRun.Reason)
		return
	}
	backend := rule.pick()
	if backend == nil {
		x.answer(500, reasonNoBackend, nil)
		return
	}
	x.chosen(backend)
	if backend.spec.Invalid != "" {
		x.answer(500, reasonInvalidBackend, nil)
		return
	}
	x.backendRun = backend.filters.Request(req, in)
	if x.backendRun.Answer != nil {
		x.send(x.backendRun.Answer, x.backendRun.Reason)
		return
	}
	c.mirror(rule, backend, req)

	result := c.p.forward.Forward(x.ctx, c.call(x, rule, backend))
	x.forwarded(result)
	if result.Failure != nil {
		x.answer(result.Failure.Status, result.Failure.Reason, result.Failure.Err)
		return
	}
	x.backendRun.Response(result.Response)
	result.Done(x.send(result.Response, ""))
}

// Reasons of answers that are the pipeline's own.
const (
	reasonNoRoute        = "no route matches"
	reasonNoBackend      = "rule has no backend"
	reasonInvalidBackend = "invalid backend"
)

// listener returns what is configured for the connection's port now. Where the
// table or the port has gone while the connection lived, requests pass through
// to the Service, as new connections do by another way; and the client is made
// to take that.
func (c *connection) listener() *listener {
	v := c.visitor
	tab := c.p.tables.load()[v.service]
	if tab != nil {
		if l := tab.listeners[v.authority.Port()]; l != nil && l.spec.Protocol == routing.ProtocolHTTP {
			return l
		}
	}
	c.sendAway()
	port := v.authority.Port()
	return &listener{spec: &routing.Listener{Port: port}, through: throughRule(v.service, port)}
}

// stripUntrusted removes fields that only Towpath may set, in every spelling
// that an application could take for them.
func stripUntrusted(h *wire.Header) {
	h.DelFunc(0, func(f wire.Field) bool { return isReserved(f.Name) })
}

// isReserved tells towpath-* and x-forwarded-client-cert, with '_' and '.' for
// '-' too: CGI and others make no difference.
func isReserved(name string) bool {
	const prefix, xfcc = "towpath-", "x-forwarded-client-cert"
	return len(name) > len(prefix) && sameAlias(name[:len(prefix)], prefix) || sameAlias(name, xfcc)
}

func sameAlias(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_' || c == '.':
			c = '-'
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// call describes the request to the upstream side.
func (c *connection) call(x *exchange, r *rule, b *backend) upstream.Call {
	call := upstream.Call{
		Request: x.req, Service: b.spec.Service, Port: b.spec.Port,
		// A client that speaks HTTP/2 without having been told to by TLS knows
		// that the Service does.
		H2C:      b.spec.H2C || x.req.Proto == wire.HTTP2,
		From:     c.visitor.source,
		Observer: x,
		OnInform: x.w.Inform,
	}
	if r.spec != nil {
		call.Timeouts, call.Retry = r.spec.Timeouts, r.spec.Retry
	}
	return call
}

// matched notes the rule.
func (x *exchange) matched(r *rule, m match.Result) {
	x.record.Route, x.record.Rule = r.route, r.name
	if r.spec != nil {
		x.routeKind = r.spec.ID.Kind.String()
		x.nameSpan(m.Route)
	}
}

// chosen notes the backend.
func (x *exchange) chosen(b *backend) {
	x.backend = b
	x.record.Backend = b.spec.Service.String()
}

// forwarded notes how the backend was reached.
func (x *exchange) forwarded(r *upstream.Result) {
	x.record.Endpoint, x.record.Attempts = r.Endpoint, r.Attempts
}
