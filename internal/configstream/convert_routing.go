package configstream

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/routing"
)

func encodeTable(t *routing.Table) (proto.Message, error) {
	var e encoder
	out := &configpb.Table{
		Proxy: named(t.Key.Proxy.Namespace, t.Key.Proxy.Name),
		Parent: &configpb.Parent{
			Kind:      encodeEnum(&e, parentKinds, t.Key.Parent.Kind),
			Namespace: t.Key.Parent.Namespace,
			Name:      t.Key.Parent.Name,
		},
		Listeners:       each(t.Listeners, e.listener),
		ClientNamespace: t.ClientNamespace,
	}
	return out, e.err
}

func decodeTable(b []byte) (*routing.Table, error) {
	var p configpb.Table
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	var d decoder
	out := &routing.Table{
		Key: routing.TableKey{
			Proxy: proxyKey(p.GetProxy()),
			Parent: routing.Parent{
				Kind:      decodeEnum[routing.ParentKind](&d, parentKinds, p.GetParent().GetKind()),
				Namespace: p.GetParent().GetNamespace(),
				Name:      p.GetParent().GetName(),
			},
		},
		Listeners:       each(p.GetListeners(), d.listener),
		ClientNamespace: p.GetClientNamespace(),
	}
	return out, d.err
}

func (e *encoder) listener(l routing.Listener) *configpb.Listener {
	return &configpb.Listener{
		Port:     uint32(l.Port),
		Protocol: encodeEnum(e, protocols, l.Protocol),
		Routed:   l.Routed,
		Rules:    each(l.Rules, e.rule),
	}
}

func (d *decoder) listener(p *configpb.Listener) routing.Listener {
	return routing.Listener{
		Port:     d.port(p.GetPort()),
		Protocol: decodeEnum[routing.Protocol](d, protocols, p.GetProtocol()),
		Routed:   p.GetRouted(),
		Rules:    each(p.GetRules(), d.rule),
	}
}

func (e *encoder) rule(r routing.Rule) *configpb.Rule {
	return &configpb.Rule{
		Id: &configpb.RuleID{
			Kind:      encodeEnum(e, routeKinds, r.ID.Kind),
			Namespace: r.ID.Namespace,
			Name:      r.ID.Name,
			Index:     int64(r.ID.Index),
			Section:   r.ID.Section,
		},
		Hostnames:             r.Hostnames,
		Matches:               each(r.Matches, e.match),
		Filters:               each(r.Filters, encodeFilter),
		Backends:              each(r.Backends, encodeBackend),
		RequestTimeout:        int64(r.Timeouts.Request),
		BackendRequestTimeout: int64(r.Timeouts.BackendRequest),
		Retry:                 encodeRetry(r.Retry),
	}
}

func (d *decoder) rule(p *configpb.Rule) routing.Rule {
	return routing.Rule{
		ID: routing.RuleID{
			Kind:      decodeEnum[routing.RouteKind](d, routeKinds, p.GetId().GetKind()),
			Namespace: p.GetId().GetNamespace(),
			Name:      p.GetId().GetName(),
			Index:     d.integer(p.GetId().GetIndex()),
			Section:   p.GetId().GetSection(),
		},
		Hostnames: list(p.GetHostnames()),
		Matches:   each(p.GetMatches(), d.match),
		Filters:   each(p.GetFilters(), d.filter),
		Backends:  each(p.GetBackends(), d.backend),
		Timeouts: routing.Timeouts{
			Request:        time.Duration(p.GetRequestTimeout()),
			BackendRequest: time.Duration(p.GetBackendRequestTimeout()),
		},
		Retry: d.retry(p.GetRetry()),
	}
}

func (e *encoder) match(m routing.Match) *configpb.Match {
	return &configpb.Match{
		PathKind: encodeEnum(e, pathKinds, m.Path.Kind),
		Path:     m.Path.Value,
		Method:   m.Method,
		Headers:  each(m.Headers, e.valueMatch),
		Query:    each(m.Query, e.valueMatch),
	}
}

func (d *decoder) match(p *configpb.Match) routing.Match {
	return routing.Match{
		Path:    routing.PathMatch{Kind: decodeEnum[routing.PathKind](d, pathKinds, p.GetPathKind()), Value: p.GetPath()},
		Method:  p.GetMethod(),
		Headers: each(p.GetHeaders(), d.valueMatch),
		Query:   each(p.GetQuery(), d.valueMatch),
	}
}

func (e *encoder) valueMatch(m routing.ValueMatch) *configpb.ValueMatch {
	return &configpb.ValueMatch{Kind: encodeEnum(e, valueKinds, m.Kind), Name: m.Name, Value: m.Value}
}

func (d *decoder) valueMatch(p *configpb.ValueMatch) routing.ValueMatch {
	return routing.ValueMatch{
		Kind:  decodeEnum[routing.ValueKind](d, valueKinds, p.GetKind()),
		Name:  p.GetName(),
		Value: p.GetValue(),
	}
}

func encodeBackend(b routing.Backend) *configpb.Backend {
	return &configpb.Backend{
		Service: named(b.Service.Namespace, b.Service.Name),
		Port:    uint32(b.Port),
		Weight:  b.Weight,
		Filters: each(b.Filters, encodeFilter),
		H2C:     b.H2C,
		Invalid: b.Invalid,
	}
}

func (d *decoder) backend(p *configpb.Backend) routing.Backend {
	return routing.Backend{
		Service: serviceKey(p.GetService()),
		Port:    d.port(p.GetPort()),
		Weight:  p.GetWeight(),
		Filters: each(p.GetFilters(), d.filter),
		H2C:     p.GetH2C(),
		Invalid: p.GetInvalid(),
	}
}

func encodeRetry(r *routing.Retry) *configpb.Retry {
	if r == nil {
		return nil
	}
	return &configpb.Retry{
		Attempts: int64(r.Attempts),
		Backoff:  int64(r.Backoff),
		Codes:    each(r.Codes, func(c int) int64 { return int64(c) }),
	}
}

func (d *decoder) retry(p *configpb.Retry) *routing.Retry {
	if p == nil {
		return nil
	}
	return &routing.Retry{
		Attempts: d.integer(p.GetAttempts()),
		Backoff:  time.Duration(p.GetBackoff()),
		Codes:    each(p.GetCodes(), d.integer),
	}
}
