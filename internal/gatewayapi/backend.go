package gatewayapi

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// target is a backendRef followed to its end.
type target struct {
	service mesh.ServiceKey
	port    uint16
	h2c     bool
	invalid string
}

func (b *builder) backend(in *gwv1.HTTPBackendRef, field string) routing.Backend {
	t := b.resolve(&in.BackendObjectReference, field)
	out := routing.Backend{
		Service: t.service, Port: t.port, H2C: t.h2c, Invalid: t.invalid, Weight: 1,
		Filters: b.filters(in.Filters, field+".filters", backendFilters),
	}
	if in.Weight != nil {
		out.Weight = uint32(max(*in.Weight, 0))
	}
	return out
}

func (b *builder) mirror(in *gwv1.HTTPRequestMirrorFilter, field string) *routing.Mirror {
	t := b.resolve(&in.BackendRef, field+".backendRef")
	out := &routing.Mirror{Service: t.service, Port: t.port, H2C: t.h2c, Invalid: t.invalid, Numerator: 1, Denominator: 1}
	switch {
	case in.Percent != nil:
		out.Numerator, out.Denominator = uint32(max(*in.Percent, 0)), 100
	case in.Fraction != nil:
		out.Numerator, out.Denominator = uint32(max(in.Fraction.Numerator, 0)), 100
		if d := in.Fraction.Denominator; d != nil && *d > 0 {
			out.Denominator = uint32(*d)
		}
	}
	return out
}

// resolve follows a reference. Below a Service it may cross namespaces without a
// ReferenceGrant (GEP-1294, "Namespace boundaries").
func (b *builder) resolve(ref *gwv1.BackendObjectReference, field string) target {
	group, kind := deref(ref.Group), gwv1.Kind("Service")
	if ref.Kind != nil {
		kind = *ref.Kind
	}
	t := target{service: mesh.ServiceKey{Namespace: b.route.id.Namespace, Name: string(ref.Name)}, port: uint16(deref(ref.Port))}
	if ref.Namespace != nil {
		t.service.Namespace = string(*ref.Namespace)
	}
	if group != "" || kind != "Service" {
		t.invalid = b.unresolved(gwv1.RouteReasonInvalidKind, "%s: kind %s in group %q is no backend: name a Service (group \"\")", field, kind, group)
		return t
	}
	s := b.cluster.services[t.service]
	if l := (lookup{t.service, s}); !slices.Contains(b.out.lookups, l) {
		b.out.lookups = append(b.out.lookups, l)
	}
	switch {
	case s == nil:
		t.invalid = b.unresolved(gwv1.RouteReasonBackendNotFound, "%s: Service %s does not exist", field, t.service)
	case s.external:
		t.invalid = b.unresolved(gwv1.RouteReasonInvalidKind, "%s: Service %s is of type ExternalName, which is no backend", field, t.service)
	case ref.Port == nil:
		t.invalid = b.unresolved(gwv1.RouteReasonBackendNotFound, "%s.port is missing: Service %s has %s", field, t.service, describePorts(s.ports))
	default:
		b.resolvePort(&t, s, field)
	}
	return t
}

func (b *builder) resolvePort(t *target, s *service, field string) {
	for _, p := range s.ports {
		if p.Port != t.port {
			continue
		}
		if !p.Protocol.CarriesHTTP() {
			t.invalid = b.unresolved(gwv1.RouteReasonUnsupportedProtocol,
				"%s.port: appProtocol of port %d of Service %s is not HTTP without TLS: set it to http, kubernetes.io/h2c or grpc, or remove it", field, t.port, t.service)
			return
		}
		t.h2c = p.Protocol == mesh.AppH2C || b.route.id.Kind == routing.KindGRPCRoute
		b.out.reaches = append(b.out.reaches, t.service)
		return
	}
	t.invalid = b.unresolved(gwv1.RouteReasonBackendNotFound, "%s", fmt.Sprintf(
		"%s.port: Service %s has no TCP port %d; it has %s", field, t.service, t.port, describePorts(s.ports)))
}
