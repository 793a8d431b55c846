package registry

import (
	"net/netip"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// service is a Service as last seen, without its bindings, and as last told.
type service struct {
	base mesh.Service
	told *mesh.Service
}

func (x *Index) emitService(key mesh.ServiceKey) mesh.Update {
	entry := x.services[key]
	if entry == nil {
		return mesh.Update{}
	}
	next := entry.base
	next.Waypoints, next.Speakers = x.bindings[key].Waypoints, x.bindings[key].Speakers
	if entry.told != nil && reflect.DeepEqual(*entry.told, next) {
		return mesh.Update{}
	}
	entry.told = &next
	return mesh.Update{Services: []*mesh.Service{entry.told}}
}

func (x *Index) dropService(key mesh.ServiceKey) mesh.Update {
	if x.services[key] == nil {
		return mesh.Update{}
	}
	delete(x.services, key)
	return mesh.Update{RemovedServices: []mesh.ServiceKey{key}}
}

func (x *Index) dropSlice(key mesh.SliceKey) mesh.Update {
	if x.slices[key] == nil {
		return mesh.Update{}
	}
	delete(x.slices, key)
	return mesh.Update{RemovedSlices: []mesh.SliceKey{key}}
}

// serviceOf reports false for an ExternalName Service: it is a name for
// something elsewhere and has neither address nor endpoints.
func serviceOf(s *corev1.Service, clusterDomain string) (mesh.Service, bool) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return mesh.Service{}, false
	}
	return mesh.Service{
		Key:       mesh.ServiceKey{Namespace: s.Namespace, Name: s.Name},
		Hostname:  s.Name + "." + s.Namespace + ".svc." + clusterDomain,
		Addresses: clusterAddresses(s),
		Ports:     Ports(s),
	}, true
}

func clusterAddresses(s *corev1.Service) []netip.Addr {
	list := s.Spec.ClusterIPs
	if len(list) == 0 && s.Spec.ClusterIP != "" {
		list = []string{s.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, ip := range list { // "None" is no address
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// Ports returns the TCP ports of a Service. Others are not captured and mean
// nothing to the mesh.
func Ports(s *corev1.Service) []mesh.ServicePort {
	var out []mesh.ServicePort
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		port := mesh.ServicePort{Name: p.Name, Port: uint16(p.Port)}
		if p.AppProtocol != nil {
			port.Protocol = AppProtocol(*p.AppProtocol)
		}
		out = append(out, port)
	}
	return out
}

// AppProtocol reads the appProtocol of a Service port: IANA service names and
// those that Kubernetes defines (KEP-3726). A port's name says nothing.
func AppProtocol(value string) mesh.AppProtocol {
	switch strings.ToLower(value) {
	case "":
		return mesh.AppUnspecified
	case "http", "kubernetes.io/ws":
		return mesh.AppHTTP
	case "kubernetes.io/h2c", "grpc":
		return mesh.AppH2C
	case "https", "tls", "kubernetes.io/wss":
		return mesh.AppTLS
	default:
		return mesh.AppTCP
	}
}

// sliceOf reports false for a slice that means nothing to the mesh: one of no
// Service, or of names instead of addresses.
func sliceOf(s *discoveryv1.EndpointSlice) (*mesh.EndpointSlice, bool) {
	owner := s.Labels[discoveryv1.LabelServiceName]
	if owner == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, false
	}
	out := &mesh.EndpointSlice{
		Key:     mesh.SliceKey{Namespace: s.Namespace, Name: s.Name},
		Service: mesh.ServiceKey{Namespace: s.Namespace, Name: owner},
	}
	for _, p := range s.Ports {
		if p.Port == nil || (p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP) {
			continue
		}
		port := mesh.EndpointPort{Port: uint16(*p.Port)}
		if p.Name != nil {
			port.Name = *p.Name
		}
		out.Ports = append(out.Ports, port)
	}
	for i := range s.Endpoints {
		if e, ok := endpointOf(s.Namespace, &s.Endpoints[i]); ok {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	return out, true
}

func endpointOf(namespace string, e *discoveryv1.Endpoint) (mesh.Endpoint, bool) {
	if len(e.Addresses) == 0 {
		return mesh.Endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0]) // further ones are never used (EndpointSlice API)
	if err != nil {
		return mesh.Endpoint{}, false
	}
	out := mesh.Endpoint{
		Address: addr.Unmap(),
		// A nil condition is to be read as true, but for terminating (EndpointConditions).
		Ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
		Serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
		Terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
	}
	if e.NodeName != nil {
		out.Node = *e.NodeName
	}
	if e.Zone != nil {
		out.Zone = *e.Zone
	}
	// Anybody may write a slice by hand. One that names a pod of another
	// namespace must not make that pod a member of this one's Service.
	if t := e.TargetRef; t != nil && t.Kind == "Pod" && (t.Namespace == "" || t.Namespace == namespace) {
		out.Workload = mesh.WorkloadID(t.UID)
	}
	return out, true
}
