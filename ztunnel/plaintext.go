package ztunnel

import (
	"context"
	"net"
	"net/netip"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// servePlaintext carries one connection that has come to the pod outside a
// tunnel. Nobody has proved who the client is: what is recorded about it is
// what its address says, and no identity.
func (d *pod) servePlaintext(ctx context.Context, c *net.TCPConn) {
	f := d.z.newFlow(plaintext)
	app, err := d.connectPlaintext(ctx, c, f)
	if err != nil {
		reset(c)
		f.fail(err)
		return
	}
	f.opened()
	f.closed(relay(ctx, c, app, &f.sent, &f.received))
}

func (d *pod) connectPlaintext(ctx context.Context, c *net.TCPConn, f *flow) (*net.TCPConn, error) {
	w := d.z.worlds.Load()
	r := &f.record
	src := addrPort(c.RemoteAddr())
	var client *mesh.Workload
	if wl, ok := w.WorkloadAt(src.Addr()); ok {
		client = wl
	}
	r.Src = peerOf(src, client)
	dst, err := d.z.sockets.OriginalDst(c)
	if err != nil {
		return nil, refuse(WhyNoOriginal, "original destination: %v", err)
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	r.Dst, r.NextHop = peerOf(dst, d.workload(w)), dst
	r.Dst.Identity = d.identity.String()
	if isOwnPort(dst.Port()) {
		return nil, refuse(WhyLoop, "%s is a port of the mesh itself", dst)
	}
	r.Reason = string(WhyLocal)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var local netip.Addr
	if usable(src.Addr(), dst.Addr()) {
		local = src.Addr()
	}
	return d.connectApp(ctx, local, dst)
}
