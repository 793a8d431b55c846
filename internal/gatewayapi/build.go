package gatewayapi

import (
	"fmt"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// built is a route's rules as routing rules, and what is wrong with them. It is
// the same for all parents.
type built struct {
	rules []routing.Rule
	// invalid rules, by index: why, and whether nothing is left of the rule that
	// could match.
	invalid map[int]invalidRule
	// unresolved references, in the order of the route.
	unresolved []refusal
	// notes are about fields that have no effect.
	notes []string
	// lookups are the Services that were asked for.
	lookups []lookup
	// reaches are the Services that the rules send requests to.
	reaches []mesh.ServiceKey
}

type invalidRule struct {
	refusal
	dropped bool
}

// builder builds one route.
type builder struct {
	cluster *cluster
	route   *route
	out     *built
	index   int // of the rule
}

func (c *cluster) build(r *route) *built {
	b := &builder{cluster: c, route: r, out: &built{invalid: map[int]invalidRule{}}}
	if len(r.hostnames) > 0 {
		b.note("spec.hostnames has no effect below a Service: match the header Host instead")
	}
	for i := range r.rules {
		b.index = i
		if rule, ok := b.rule(&r.rules[i]); ok {
			b.out.rules = append(b.out.rules, rule)
		}
	}
	slices.SortFunc(b.out.reaches, compareServices)
	b.out.reaches = slices.Compact(b.out.reaches)
	return b.out
}

func (b *builder) note(format string, args ...any) {
	b.out.notes = append(b.out.notes, fmt.Sprintf(format, args...))
}

// invalidate marks the rule; the first reason is kept.
func (b *builder) invalidate(reason gwv1.RouteConditionReason, format string, args ...any) {
	if _, ok := b.out.invalid[b.index]; !ok {
		b.out.invalid[b.index] = invalidRule{refusal: refusal{string(reason), fmt.Sprintf(format, args...)}}
	}
}

func (b *builder) unresolved(reason gwv1.RouteConditionReason, format string, args ...any) string {
	message := fmt.Sprintf(format, args...)
	b.out.unresolved = append(b.out.unresolved, refusal{string(reason), message})
	return message
}

func (b *builder) field(format string, args ...any) string {
	return fmt.Sprintf("spec.rules[%d]", b.index) + fmt.Sprintf(format, args...)
}

// rule builds one rule. An invalid one is kept with what can still match, and
// refuses it: requests meant for it must not fall to a broader rule. It reports
// false when nothing can match.
func (b *builder) rule(in *gwv1.HTTPRouteRule) (routing.Rule, bool) {
	id := b.route.id
	out := routing.Rule{ID: routing.RuleID{
		Kind: id.Kind, Namespace: id.Namespace, Name: id.Name, Index: b.index, Section: string(deref(in.Name)),
	}}
	reached := len(b.out.reaches)
	out.Matches = b.matches(in.Matches)
	out.Filters = b.filters(in.Filters, b.field(".filters"), ruleFilters)
	b.checkCombination(in)
	for i := range in.BackendRefs {
		out.Backends = append(out.Backends, b.backend(&in.BackendRefs[i], b.field(".backendRefs[%d]", i)))
	}
	out.Timeouts = b.timeouts(in.Timeouts)
	out.Retry = b.retry(in.Retry)
	if in.SessionPersistence != nil {
		b.note("%s is not supported and has no effect", b.field(".sessionPersistence"))
	}
	wrong, ok := b.out.invalid[b.index]
	if !ok {
		return out, true
	}
	b.out.reaches = b.out.reaches[:reached]
	if len(out.Matches) == 0 {
		wrong.dropped = true
		b.out.invalid[b.index] = wrong
		return out, false
	}
	out.Filters = []routing.Filter{{Invalid: wrong.message}}
	out.Backends = nil
	return out, true
}

// checkCombination refuses filters that exclude each other. The CRDs refuse them
// too; older ones, and files that bypass them, do not.
func (b *builder) checkCombination(in *gwv1.HTTPRouteRule) {
	var redirect, rewrite bool
	for _, f := range in.Filters {
		redirect = redirect || f.RequestRedirect != nil
		rewrite = rewrite || f.URLRewrite != nil
	}
	if redirect && rewrite {
		b.invalidate(gwv1.RouteReasonIncompatibleFilters, "%s: RequestRedirect and URLRewrite exclude each other", b.field(".filters"))
	}
	if redirect && len(in.BackendRefs) > 0 {
		b.invalidate(gwv1.RouteReasonIncompatibleFilters, "%s: RequestRedirect answers itself: remove backendRefs", b.field(".filters"))
	}
}

func (b *builder) timeouts(in *gwv1.HTTPRouteTimeouts) routing.Timeouts {
	if in == nil {
		return routing.Timeouts{}
	}
	return routing.Timeouts{
		Request:        b.duration(in.Request, b.field(".timeouts.request")),
		BackendRequest: b.duration(in.BackendRequest, b.field(".timeouts.backendRequest")),
	}
}

// defaultAttempts is how often a request is retried when the route does not say
// ("implementation-specific").
const defaultAttempts = 1

func (b *builder) retry(in *gwv1.HTTPRouteRetry) *routing.Retry {
	if in == nil {
		return nil
	}
	out := &routing.Retry{Attempts: defaultAttempts, Backoff: b.duration(in.Backoff, b.field(".retry.backoff"))}
	if in.Attempts != nil {
		out.Attempts = *in.Attempts
	}
	for _, code := range in.Codes {
		out.Codes = append(out.Codes, int(code))
	}
	return out
}

// duration reads a duration of GEP-2257; "0s" disables and is none.
func (b *builder) duration(in *gwv1.Duration, field string) time.Duration {
	if in == nil {
		return 0
	}
	d, err := time.ParseDuration(string(*in))
	if err != nil || d < 0 {
		b.invalidate(gwv1.RouteReasonUnsupportedValue, "%s: %q is no duration like 1s or 500ms", field, *in)
		return 0
	}
	return d
}

// hopeless reports whether no rule of the route is valid: it is then not
// accepted anywhere.
func (r *route) hopeless() bool {
	return len(r.built.invalid) > 0 && len(r.built.invalid) == len(r.rules)
}

// refuseUnusable takes the route off its parents when nothing of it can match.
func (r *route) refuseUnusable() {
	if !r.hopeless() {
		return
	}
	for _, a := range r.attachments {
		// A route of which something can still match stays where it hangs and
		// refuses that (see builder.rule): without it the requests would pass
		// unfiltered.
		if len(r.built.rules) == 0 {
			a.refuse(r.built.invalid[0].reason, "%s", r.built.describeInvalid())
		}
	}
}

// describeInvalid lists the invalid rules in order.
func (b *built) describeInvalid() string {
	var out []string
	for i := 0; len(out) < len(b.invalid); i++ {
		wrong, ok := b.invalid[i]
		if !ok {
			continue
		}
		what := wrong.message
		if !wrong.dropped {
			what += " (its requests are answered with 500)"
		}
		out = append(out, what)
	}
	return strings.Join(out, "; ")
}
