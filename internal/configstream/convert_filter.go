package configstream

import (
	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// unknownFilter is what a filter becomes that this program has no field for.
const unknownFilter = "this proxy does not know the filter"

func encodeFilter(f routing.Filter) *configpb.Filter {
	return &configpb.Filter{
		RequestHeaders:  encodeHeaderChange(f.RequestHeaders),
		ResponseHeaders: encodeHeaderChange(f.ResponseHeaders),
		Redirect:        encodeRedirect(f.Redirect),
		Rewrite:         encodeRewrite(f.Rewrite),
		Mirror:          encodeMirror(f.Mirror),
		Cors:            encodeCORS(f.CORS),
		Invalid:         f.Invalid,
	}
}

func (d *decoder) filter(p *configpb.Filter) routing.Filter {
	f := routing.Filter{
		RequestHeaders:  decodeHeaderChange(p.GetRequestHeaders()),
		ResponseHeaders: decodeHeaderChange(p.GetResponseHeaders()),
		Redirect:        d.redirect(p.GetRedirect()),
		Rewrite:         decodeRewrite(p.GetRewrite()),
		Mirror:          d.mirror(p.GetMirror()),
		CORS:            d.cors(p.GetCors()),
		Invalid:         p.GetInvalid(),
	}
	if f == (routing.Filter{}) && len(p.ProtoReflect().GetUnknown()) > 0 {
		f.Invalid = unknownFilter
	}
	return f
}

func encodeHeaderChange(c *routing.HeaderChange) *configpb.HeaderChange {
	if c == nil {
		return nil
	}
	return &configpb.HeaderChange{
		Set:    each(c.Set, encodeHeader),
		Add:    each(c.Add, encodeHeader),
		Remove: c.Remove,
	}
}

func decodeHeaderChange(p *configpb.HeaderChange) *routing.HeaderChange {
	if p == nil {
		return nil
	}
	return &routing.HeaderChange{
		Set:    each(p.GetSet(), decodeHeader),
		Add:    each(p.GetAdd(), decodeHeader),
		Remove: list(p.GetRemove()),
	}
}

func encodeHeader(h routing.Header) *configpb.Header {
	return &configpb.Header{Name: h.Name, Value: h.Value}
}

func decodeHeader(p *configpb.Header) routing.Header {
	return routing.Header{Name: p.GetName(), Value: p.GetValue()}
}

func encodeRedirect(r *routing.Redirect) *configpb.Redirect {
	if r == nil {
		return nil
	}
	return &configpb.Redirect{
		Scheme:   r.Scheme,
		Hostname: r.Hostname,
		Port:     uint32(r.Port),
		Path:     encodePathChange(r.Path),
		Code:     int64(r.Code),
	}
}

func (d *decoder) redirect(p *configpb.Redirect) *routing.Redirect {
	if p == nil {
		return nil
	}
	return &routing.Redirect{
		Scheme:   p.GetScheme(),
		Hostname: p.GetHostname(),
		Port:     d.port(p.GetPort()),
		Path:     decodePathChange(p.GetPath()),
		Code:     d.integer(p.GetCode()),
	}
}

func encodeRewrite(r *routing.Rewrite) *configpb.Rewrite {
	if r == nil {
		return nil
	}
	return &configpb.Rewrite{Hostname: r.Hostname, Path: encodePathChange(r.Path)}
}

func decodeRewrite(p *configpb.Rewrite) *routing.Rewrite {
	if p == nil {
		return nil
	}
	return &routing.Rewrite{Hostname: p.GetHostname(), Path: decodePathChange(p.GetPath())}
}

func encodePathChange(c *routing.PathChange) *configpb.PathChange {
	if c == nil {
		return nil
	}
	return &configpb.PathChange{Prefix: c.Prefix, Value: c.Value}
}

func decodePathChange(p *configpb.PathChange) *routing.PathChange {
	if p == nil {
		return nil
	}
	return &routing.PathChange{Prefix: p.GetPrefix(), Value: p.GetValue()}
}

func encodeMirror(m *routing.Mirror) *configpb.Mirror {
	if m == nil {
		return nil
	}
	return &configpb.Mirror{
		Service:     named(m.Service.Namespace, m.Service.Name),
		Port:        uint32(m.Port),
		H2C:         m.H2C,
		Numerator:   m.Numerator,
		Denominator: m.Denominator,
		Invalid:     m.Invalid,
	}
}

func (d *decoder) mirror(p *configpb.Mirror) *routing.Mirror {
	if p == nil {
		return nil
	}
	return &routing.Mirror{
		Service:     serviceKey(p.GetService()),
		Port:        d.port(p.GetPort()),
		H2C:         p.GetH2C(),
		Numerator:   p.GetNumerator(),
		Denominator: p.GetDenominator(),
		Invalid:     p.GetInvalid(),
	}
}

func encodeCORS(c *routing.CORS) *configpb.CORS {
	if c == nil {
		return nil
	}
	return &configpb.CORS{
		AllowOrigins:     c.AllowOrigins,
		AllowMethods:     c.AllowMethods,
		AllowHeaders:     c.AllowHeaders,
		ExposeHeaders:    c.ExposeHeaders,
		AllowCredentials: c.AllowCredentials,
		MaxAge:           int64(c.MaxAge),
	}
}

func (d *decoder) cors(p *configpb.CORS) *routing.CORS {
	if p == nil {
		return nil
	}
	return &routing.CORS{
		AllowOrigins:     list(p.GetAllowOrigins()),
		AllowMethods:     list(p.GetAllowMethods()),
		AllowHeaders:     list(p.GetAllowHeaders()),
		ExposeHeaders:    list(p.GetExposeHeaders()),
		AllowCredentials: p.GetAllowCredentials(),
		MaxAge:           d.integer(p.GetMaxAge()),
	}
}
