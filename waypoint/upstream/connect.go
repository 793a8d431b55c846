package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// connectTimeout bounds making one connection, tunnel included.
const connectTimeout = 5 * time.Second

// Source is the client for whom a connection is made. It is asserted to the
// destination, so connections of different sources are never shared.
type Source struct {
	// Identity is who the client has proven to be; zero if it has no identity.
	Identity spiffeid.ID
	// Address is the client's own; its port is that of the connection that
	// first needed the one to the endpoint.
	Address netip.AddrPort
}

// pool names what connections to the target may be shared by requests of this
// source: those whose CONNECT says the same. The workload is in it because an
// address can pass to another pod.
func (s Source) pool(t mesh.Target, h2c bool) string {
	var workload mesh.WorkloadID
	if t.Workload != nil {
		workload = t.Workload.ID
	}
	return fmt.Sprintf("%s\n%s\n%s\n%s\n%t", t.Address, workload, s.Identity, s.Address.Addr(), h2c)
}

// DialFunc makes a TCP connection.
type DialFunc func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// Connector makes connections to endpoints.
type Connector struct {
	// Tunnels opens HBONE tunnels; Identity is whose certificate they show.
	Tunnels  *hbone.Dialer
	Identity identity.Source
	// DialTCP makes a TCP connection; nil is the ordinary way.
	DialTCP DialFunc
	// OnConnect, if set, is told of every connection tried, for metrics.
	OnConnect func(tunnel mesh.Tunnel, err error)
}

var errNoIdentity = errors.New("workload without an identity cannot be reached by HBONE")

// Connect connects to the endpoint: through a tunnel where it takes one, in
// plain TCP otherwise. traceparent goes into the CONNECT. It bounds its own
// time.
func (c *Connector) Connect(ctx context.Context, to mesh.Target, from Source, traceparent string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	kind := mesh.TunnelNone
	if to.Workload != nil {
		kind = to.Workload.Tunnel
	}
	var conn net.Conn
	var err error
	if kind == mesh.TunnelHBONE {
		conn, err = c.tunnel(ctx, to, from, traceparent)
	} else {
		conn, err = c.dialTCP(ctx, to.Address)
	}
	if c.OnConnect != nil {
		c.OnConnect(kind, err)
	}
	return conn, err
}

func (c *Connector) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if c.DialTCP != nil {
		return c.DialTCP(ctx, to)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
}

// tunnelKey shares TLS connections between the tunnels of one source to one
// workload.
type tunnelKey struct {
	to       netip.AddrPort
	workload mesh.WorkloadID
	expect   spiffeid.ID
	source   spiffeid.ID
}

// String names the key in a config dump.
func (k tunnelKey) String() string {
	return fmt.Sprintf("%s %s for %s", k.to, k.expect, k.source)
}

func (c *Connector) tunnel(ctx context.Context, to mesh.Target, from Source, traceparent string) (net.Conn, error) {
	expect := to.Workload.Identity
	if expect.IsZero() {
		return nil, errNoIdentity
	}
	r := hbone.Request{
		Authority: to.Address.String(),
		Address:   netip.AddrPortFrom(to.Address.Addr(), mesh.PortHBONE),
		TLS:       c.clientTLS(expect),
		DialTCP:   c.DialTCP,
		Header:    hbone.Header{Traceparent: traceparent},
	}
	r.PoolKey = tunnelKey{to: r.Address, workload: to.Workload.ID, expect: expect, source: from.Identity}
	if !from.Identity.IsZero() {
		r.Header.Source = from.Identity.String()
	}
	if from.Address.IsValid() {
		r.Header.Forwarded = hbone.FormatForwarded(from.Address)
	}
	conn, err := c.Tunnels.Dial(ctx, r)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (c *Connector) clientTLS(expect spiffeid.ID) *tls.Config {
	return identity.ClientTLS(c.Identity, identity.OneOf(expect))
}

// TunnelSpan returns the span context that the far end of a tunnel has told, in
// the form of a traceparent; empty for a connection without one. The second
// result tells whether conn is a tunnel.
func TunnelSpan(conn net.Conn) (traceresponse string, ok bool) {
	t, ok := conn.(*hbone.Conn)
	if !ok {
		return "", false
	}
	return t.Response().Traceresponse, true
}
