package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// Addresses of the lab. Hosts get the next ones of both families; the test
// process, and with it the control plane, stands at the bridge.
var (
	bridge4 = netip.MustParsePrefix("10.77.0.1/16")
	bridge6 = netip.MustParsePrefix("fd77::1/64")
)

// Net is a bridge with pods on it.
type Net struct {
	t      testing.TB
	bridge netlink.Link
	next   int
}

// NewNet makes the bridge; it is gone when the test ends.
func NewNet(t testing.TB) *Net {
	t.Helper()
	needsRoot(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lab0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	must(t, "bridge", netlink.LinkAdd(bridge))
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	lo, err := netlink.LinkByName("lo")
	must(t, "loopback", err)
	must(t, "loopback", netlink.LinkSetUp(lo))
	n := &Net{t: t, bridge: bridge, next: 1}
	n.addAddress(bridge4)
	n.addAddress(bridge6)
	must(t, "bridge", netlink.LinkSetUp(bridge))
	return n
}

// addAddress gives the bridge, and so the test process, an address.
func (n *Net) addAddress(p netip.Prefix) {
	n.t.Helper()
	must(n.t, "address "+p.String(), netlink.AddrAdd(n.bridge, address(p)))
}

func (n *Net) take() (v4, v6 netip.Addr) {
	n.next++
	a4, a6 := bridge4.Addr().As4(), bridge6.Addr().As16()
	a4[2], a4[3] = byte(n.next>>8), byte(n.next)
	a6[14], a6[15] = byte(n.next>>8), byte(n.next)
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// Host is a pod's network namespace.
type Host struct {
	Name   string
	V4, V6 netip.Addr
	NS     *netns.NS
	// Path is where the namespace is mounted, as a container runtime tells it
	// to CNI plugins.
	Path string
}

// Host makes a namespace with a link to the bridge, both address families and
// default routes.
func (n *Net) Host(name string) *Host {
	t := n.t
	t.Helper()
	h := &Host{Name: name}
	h.NS, h.Path = newNamespace(t)
	h.V4, h.V6 = n.take()
	outer := fmt.Sprintf("lab%d", n.next)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = outer, n.bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.NS.FD())}
	must(t, "veth of "+name, netlink.LinkAdd(veth))
	must(t, "veth of "+name, netlink.LinkSetUp(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	must(t, "namespace of "+name, h.NS.Do(h.configure))
	return h
}

// configure runs inside the pod's namespace.
func (h *Host) configure() error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(h.V4, bridge4.Bits()), netip.PrefixFrom(h.V6, bridge6.Bits())} {
		if err := netlink.AddrAdd(eth, address(p)); err != nil {
			return err
		}
	}
	for _, gw := range []netip.Addr{bridge4.Addr(), bridge6.Addr()} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("default route by %s: %w", gw, err)
		}
	}
	return nil
}

// address without duplicate detection: the lab's addresses are its own, and a
// tentative IPv6 address cannot be used for a second.
func address(p netip.Prefix) *netlink.Addr {
	ipnet := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	a := &netlink.Addr{IPNet: ipnet}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// newNamespace makes an empty namespace, held by a bind mount so that it can be
// looked at while a test stands still.
func newNamespace(t testing.TB) (*netns.NS, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	must(t, "namespace file", os.WriteFile(path, nil, 0o600))
	made := make(chan error, 1)
	go func() { made <- unshareTo(path) }()
	must(t, "namespace", <-made)
	ns, err := netns.Open(path)
	must(t, "namespace", err)
	t.Cleanup(func() {
		_ = ns.Close()
		_ = unix.Unmount(path, unix.MNT_DETACH)
	})
	return ns, path
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("lab: %s: %v", what, err)
	}
}

// Listen opens a listening socket in the namespace, on all its addresses.
func (h *Host) Listen(t testing.TB, port uint16) net.Listener {
	t.Helper()
	var ln net.Listener
	err := h.NS.Do(func() error {
		var err error
		ln, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	must(t, fmt.Sprintf("%s listens on %d", h.Name, port), err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Dial connects from inside the namespace.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := h.NS.Do(func() error {
		var err error
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}
