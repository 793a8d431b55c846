package configstream

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/towpath-mesh/towpath/internal/configstream/internal/configpb"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

func encodeWorkload(w *mesh.Workload) (proto.Message, error) {
	var e encoder
	out := &configpb.Workload{
		Id:             string(w.ID),
		Namespace:      w.Namespace,
		Name:           w.Name,
		ServiceAccount: w.ServiceAccount,
		Identity:       encodeIdentity(w.Identity),
		Node:           w.Node,
		Addresses:      each(w.Addresses, e.address),
		HostNetwork:    w.HostNetwork,
		Enrolled:       w.Enrolled,
		Tunnel:         encodeEnum(&e, tunnels, w.Tunnel),
		Gateway:        named(w.Gateway.Namespace, w.Gateway.Name),
		Terminating:    w.Terminating,
		OwnerKind:      w.OwnerKind,
		OwnerName:      w.OwnerName,
		App:            w.App,
		Version:        w.Version,
	}
	return out, e.err
}

func decodeWorkload(b []byte) (*mesh.Workload, error) {
	var p configpb.Workload
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	if p.GetId() == "" {
		return nil, errors.New("a workload without an id")
	}
	var d decoder
	out := &mesh.Workload{
		ID:             mesh.WorkloadID(p.GetId()),
		Namespace:      shared(p.GetNamespace()),
		Name:           p.GetName(),
		ServiceAccount: shared(p.GetServiceAccount()),
		Identity:       d.identity(shared(p.GetIdentity())),
		Node:           shared(p.GetNode()),
		Addresses:      each(p.GetAddresses(), d.address),
		HostNetwork:    p.GetHostNetwork(),
		Enrolled:       p.GetEnrolled(),
		Tunnel:         decodeEnum[mesh.Tunnel](&d, tunnels, p.GetTunnel()),
		Gateway:        proxyKey(p.GetGateway()),
		Terminating:    p.GetTerminating(),
		OwnerKind:      shared(p.GetOwnerKind()),
		OwnerName:      shared(p.GetOwnerName()),
		App:            shared(p.GetApp()),
		Version:        shared(p.GetVersion()),
	}
	return out, d.err
}

func encodeService(s *mesh.Service) (proto.Message, error) {
	var e encoder
	out := &configpb.Service{
		Key:       named(s.Key.Namespace, s.Key.Name),
		Hostname:  s.Hostname,
		Addresses: each(s.Addresses, e.address),
		Ports: each(s.Ports, func(p mesh.ServicePort) *configpb.ServicePort {
			return &configpb.ServicePort{Name: p.Name, Port: uint32(p.Port), Protocol: encodeEnum(&e, appProtocols, p.Protocol)}
		}),
		Waypoints: each(s.Waypoints, encodeBinding),
		Speakers:  each(s.Speakers, encodeIdentity),
	}
	return out, e.err
}

func decodeService(b []byte) (*mesh.Service, error) {
	var p configpb.Service
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	var d decoder
	out := &mesh.Service{
		Key:       serviceKey(p.GetKey()),
		Hostname:  p.GetHostname(),
		Addresses: each(p.GetAddresses(), d.address),
		Ports: each(p.GetPorts(), func(p *configpb.ServicePort) mesh.ServicePort {
			return mesh.ServicePort{Name: p.GetName(), Port: d.port(p.GetPort()), Protocol: decodeAppProtocol(p.GetProtocol())}
		}),
		Waypoints: each(p.GetWaypoints(), d.binding),
		Speakers:  each(p.GetSpeakers(), d.identity),
	}
	return out, d.err
}

// decodeAppProtocol takes every protocol it does not know for opaque TCP, which
// is what mesh.AppTCP means.
func decodeAppProtocol(p configpb.AppProtocol) mesh.AppProtocol {
	if i := slices.Index(appProtocols, p); i >= 0 {
		return mesh.AppProtocol(i)
	}
	return mesh.AppTCP
}

func encodeBinding(b mesh.WaypointBinding) *configpb.WaypointBinding {
	return &configpb.WaypointBinding{
		ClientNamespace: b.ClientNamespace,
		Ports:           each(b.Ports, func(p uint16) uint32 { return uint32(p) }),
		Waypoint:        named(b.Waypoint.Namespace, b.Waypoint.Name),
	}
}

func (d *decoder) binding(p *configpb.WaypointBinding) mesh.WaypointBinding {
	return mesh.WaypointBinding{
		ClientNamespace: p.GetClientNamespace(),
		Ports:           each(p.GetPorts(), d.port),
		Waypoint:        proxyKey(p.GetWaypoint()),
	}
}

func encodeSlice(s *mesh.EndpointSlice) (proto.Message, error) {
	var e encoder
	out := &configpb.EndpointSlice{
		Key:     named(s.Key.Namespace, s.Key.Name),
		Service: named(s.Service.Namespace, s.Service.Name),
		Ports: each(s.Ports, func(p mesh.EndpointPort) *configpb.EndpointPort {
			return &configpb.EndpointPort{Name: p.Name, Port: uint32(p.Port)}
		}),
		Endpoints: each(s.Endpoints, e.endpoint),
	}
	return out, e.err
}

func decodeSlice(b []byte) (*mesh.EndpointSlice, error) {
	var p configpb.EndpointSlice
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	var d decoder
	out := &mesh.EndpointSlice{
		Key:     mesh.SliceKey{Namespace: p.GetKey().GetNamespace(), Name: p.GetKey().GetName()},
		Service: serviceKey(p.GetService()),
		Ports: each(p.GetPorts(), func(p *configpb.EndpointPort) mesh.EndpointPort {
			return mesh.EndpointPort{Name: p.GetName(), Port: d.port(p.GetPort())}
		}),
		Endpoints: each(p.GetEndpoints(), d.endpoint),
	}
	return out, d.err
}

func (e *encoder) endpoint(v mesh.Endpoint) *configpb.Endpoint {
	return &configpb.Endpoint{
		Address:     e.address(v.Address),
		Workload:    string(v.Workload),
		Ready:       v.Ready,
		Serving:     v.Serving,
		Terminating: v.Terminating,
		Node:        v.Node,
		Zone:        v.Zone,
	}
}

func (d *decoder) endpoint(p *configpb.Endpoint) mesh.Endpoint {
	return mesh.Endpoint{
		Address:     d.address(p.GetAddress()),
		Workload:    mesh.WorkloadID(p.GetWorkload()),
		Ready:       p.GetReady(),
		Serving:     p.GetServing(),
		Terminating: p.GetTerminating(),
		Node:        p.GetNode(),
		Zone:        p.GetZone(),
	}
}
