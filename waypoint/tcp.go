package waypoint

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/telemetry"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// tcpTries bounds the endpoints that a connection is tried at.
const tcpTries = 3

// serveTCP carries an opaque connection to an endpoint of the Service. The
// endpoint is connected first, so that the tunnel's answer says whether that
// worked, and a server that speaks first is heard.
func (p *Proxy) serveTCP(ctx context.Context, t *hbone.Tunnel, v *visitor) {
	r := telemetry.ConnectionRecord{
		Direction: "waypoint", Src: v.src(), Dst: v.dst(), TraceID: traceID(v.span), Start: time.Now(),
	}
	defer func() {
		r.Duration = time.Since(r.Start)
		r.Log(p.log)
	}()
	server, to, release, err := p.connectTCP(ctx, v, t.Header.Traceparent)
	r.NextHop, r.Protocol = to.Address, protocolOf(to)
	if err != nil {
		r.Reason, r.Err = err.Error(), t.Reject(503, err.Error())
		return
	}
	defer release()
	client, err := t.Accept(hbone.ResponseHeader{})
	if err != nil {
		server.Close()
		r.Err = err
		return
	}
	r.Sent, r.Received, r.Err = wire.Copy(ctx, client, server)
}

func protocolOf(t mesh.Target) string {
	if t.Workload == nil {
		return mesh.TunnelNone.String()
	}
	return t.Workload.Tunnel.String()
}

func (p *Proxy) connectTCP(ctx context.Context, v *visitor, traceparent string) (conn net.Conn, to mesh.Target, release func(), err error) {
	err = errNoEndpoint
	var tried []netip.AddrPort
	for range tcpTries {
		target, free, ok := p.forward.Balancer.PickFor(v.source.Address.Addr(), v.service, v.authority.Port(), tried)
		if !ok {
			return nil, to, nil, err
		}
		to = target
		if conn, err = p.forward.Connector.Connect(ctx, to, v.source, traceparent); err == nil {
			return conn, to, free, nil
		}
		free()
		tried = append(tried, to.Address)
	}
	return nil, to, nil, err
}
