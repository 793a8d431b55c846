package gatewayapi

import (
	"fmt"
	"regexp"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// matches builds the valid matches of a rule: none if all are invalid.
func (b *builder) matches(in []gwv1.HTTPRouteMatch) []routing.Match {
	if len(in) == 0 {
		return []routing.Match{{Path: routing.PathMatch{Kind: routing.PathPrefix, Value: "/"}}}
	}
	var out []routing.Match
	for i := range in {
		m, err := b.match(&in[i], i)
		if err != nil {
			b.invalidate(gwv1.RouteReasonUnsupportedValue, "%s", err)
			continue
		}
		out = append(out, m)
	}
	return out
}

func (b *builder) match(in *gwv1.HTTPRouteMatch, i int) (routing.Match, error) {
	field := b.field(".matches[%d]", i)
	out := routing.Match{Method: string(deref(in.Method))}
	var err error
	if out.Path, err = b.path(in.Path, field); err != nil {
		return out, err
	}
	for j, h := range in.Headers {
		kind, err := valueKind(string(deref(h.Type)), h.Value, fmt.Sprintf("%s.headers[%d]", field, j))
		if err != nil {
			return out, err
		}
		out.Headers = addFirst(out.Headers, routing.ValueMatch{Kind: kind, Name: strings.ToLower(string(h.Name)), Value: h.Value})
	}
	for j, q := range in.QueryParams {
		kind, err := valueKind(string(deref(q.Type)), q.Value, fmt.Sprintf("%s.queryParams[%d]", field, j))
		if err != nil {
			return out, err
		}
		out.Query = addFirst(out.Query, routing.ValueMatch{Kind: kind, Name: string(q.Name), Value: q.Value})
	}
	return out, nil
}

// addFirst leaves out further entries of a name: only the first counts
// (HTTPHeaderMatch.Name, HTTPQueryParamMatch.Name).
func addFirst(list []routing.ValueMatch, m routing.ValueMatch) []routing.ValueMatch {
	for _, old := range list {
		if old.Name == m.Name {
			return list
		}
	}
	return append(list, m)
}

func (b *builder) path(in *gwv1.HTTPPathMatch, field string) (routing.PathMatch, error) {
	field += ".path"
	if b.route.id.Kind == routing.KindGRPCRoute {
		field = strings.TrimSuffix(field, ".path") + ".method"
	}
	out := routing.PathMatch{Kind: routing.PathPrefix, Value: "/"}
	if in == nil {
		return out, nil
	}
	if in.Value != nil {
		out.Value = *in.Value
	}
	kind := gwv1.PathMatchPathPrefix
	if in.Type != nil {
		kind = *in.Type
	}
	switch kind {
	case gwv1.PathMatchPathPrefix:
	case gwv1.PathMatchExact:
		out.Kind = routing.PathExact
	case gwv1.PathMatchRegularExpression:
		out.Kind = routing.PathRegex
		return out, checkRegexp(out.Value, field)
	default:
		return out, fmt.Errorf("%s.type: %q is not supported", field, kind)
	}
	if !strings.HasPrefix(out.Value, "/") {
		return out, fmt.Errorf("%s.value: %q does not begin with /", field, out.Value)
	}
	return out, nil
}

func valueKind(kind, value, field string) (routing.ValueKind, error) {
	switch kind {
	case "", string(gwv1.HeaderMatchExact):
		return routing.ValueExact, nil
	case string(gwv1.HeaderMatchRegularExpression):
		return routing.ValueRegex, checkRegexp(value, field)
	}
	return 0, fmt.Errorf("%s.type: %q is not supported", field, kind)
}

func checkRegexp(value, field string) error {
	if _, err := regexp.Compile(value); err != nil {
		return fmt.Errorf("%s: %w: expressions are RE2", field, err)
	}
	return nil
}
