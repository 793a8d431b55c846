package gatewayapi

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/routing"
)

// filterPlace says where filters stand: what makes sense for a rule need not for
// one backend of it.
type filterPlace bool

const (
	ruleFilters    filterPlace = true
	backendFilters filterPlace = false
)

func (b *builder) filters(in []gwv1.HTTPRouteFilter, field string, place filterPlace) []routing.Filter {
	var out []routing.Filter
	for i := range in {
		out = append(out, b.filter(&in[i], fmt.Sprintf("%s[%d]", field, i), place))
	}
	return out
}

// filter builds one filter. One that cannot be applied is never left out: it
// answers 500 (HTTPRouteFilter.Type).
func (b *builder) filter(f *gwv1.HTTPRouteFilter, field string, place filterPlace) routing.Filter {
	switch {
	case f.Type == gwv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
		return routing.Filter{RequestHeaders: headerChange(f.RequestHeaderModifier)}
	case f.Type == gwv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
		return routing.Filter{ResponseHeaders: headerChange(f.ResponseHeaderModifier)}
	case f.Type == gwv1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
		return routing.Filter{Mirror: b.mirror(f.RequestMirror, field+".requestMirror")}
	case f.Type == gwv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
		return b.rewrite(f.URLRewrite, field+".urlRewrite")
	case f.Type == gwv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil && place == ruleFilters:
		return b.redirect(f.RequestRedirect, field+".requestRedirect")
	case f.Type == gwv1.HTTPRouteFilterCORS && f.CORS != nil && place == ruleFilters:
		return routing.Filter{CORS: cors(f.CORS)}
	case f.Type == gwv1.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil:
		return routing.Filter{Invalid: b.unresolved(gwv1.RouteReasonInvalidKind,
			"%s.extensionRef: no filters of kind %s in group %q are known; its requests are answered with 500",
			field, f.ExtensionRef.Kind, f.ExtensionRef.Group)}
	}
	message := fmt.Sprintf("%s: filter type %s is not supported here", field, f.Type)
	b.invalidate(gwv1.RouteReasonUnsupportedValue, "%s", message)
	return routing.Filter{Invalid: message}
}

func headerChange(in *gwv1.HTTPHeaderFilter) *routing.HeaderChange {
	return &routing.HeaderChange{Set: headers(in.Set), Add: headers(in.Add), Remove: in.Remove}
}

func headers(in []gwv1.HTTPHeader) []routing.Header {
	var out []routing.Header
	for _, h := range in {
		out = append(out, routing.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

func (b *builder) redirect(in *gwv1.HTTPRequestRedirectFilter, field string) routing.Filter {
	out := &routing.Redirect{
		Scheme:   deref(in.Scheme),
		Hostname: string(deref(in.Hostname)),
		Port:     uint16(deref(in.Port)),
		Code:     302, // the field's default
	}
	if in.StatusCode != nil {
		out.Code = *in.StatusCode
	}
	path, err := pathChange(in.Path, field)
	if err != nil {
		b.invalidate(gwv1.RouteReasonUnsupportedValue, "%s", err)
		return routing.Filter{Invalid: err.Error()}
	}
	out.Path = path
	return routing.Filter{Redirect: out}
}

func (b *builder) rewrite(in *gwv1.HTTPURLRewriteFilter, field string) routing.Filter {
	path, err := pathChange(in.Path, field)
	if err != nil {
		b.invalidate(gwv1.RouteReasonUnsupportedValue, "%s", err)
		return routing.Filter{Invalid: err.Error()}
	}
	return routing.Filter{Rewrite: &routing.Rewrite{Hostname: string(deref(in.Hostname)), Path: path}}
}

func pathChange(in *gwv1.HTTPPathModifier, field string) (*routing.PathChange, error) {
	switch {
	case in == nil:
		return nil, nil
	case in.Type == gwv1.FullPathHTTPPathModifier && in.ReplaceFullPath != nil:
		return &routing.PathChange{Value: *in.ReplaceFullPath}, nil
	case in.Type == gwv1.PrefixMatchHTTPPathModifier && in.ReplacePrefixMatch != nil:
		return &routing.PathChange{Prefix: true, Value: *in.ReplacePrefixMatch}, nil
	}
	return nil, fmt.Errorf("%s.path.type: %s without its value, or not supported", field, in.Type)
}

func cors(in *gwv1.HTTPCORSFilter) *routing.CORS {
	out := &routing.CORS{AllowCredentials: deref(in.AllowCredentials), MaxAge: int(in.MaxAge)}
	if out.MaxAge == 0 {
		out.MaxAge = 5 // the field's default, for objects that were not defaulted
	}
	out.AllowOrigins = plain(in.AllowOrigins)
	out.AllowMethods = plain(in.AllowMethods)
	out.AllowHeaders = plain(in.AllowHeaders)
	out.ExposeHeaders = plain(in.ExposeHeaders)
	return out
}

func plain[S ~string](in []S) []string {
	var out []string
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}
