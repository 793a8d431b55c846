// Package netnstest makes network namespaces for tests: unnamed ones, which
// the kernel removes with everything in them when the test ends, however it
// ends. It is imported by tests only.
package netnstest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// RequireRoot skips the test unless it runs as root; with
// TOWPATH_REQUIRE_ROOT=1 in the environment it fails instead, so that a test
// run that should have made namespaces cannot pass without.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("TOWPATH_REQUIRE_ROOT") == "1" {
		t.Fatal("needs root, for network namespaces")
	}
	t.Skip("needs root, for network namespaces")
}

// New makes a namespace whose loopback interface is up. It is closed when the
// test ends.
func New(t testing.TB) *netns.NS {
	t.Helper()
	RequireRoot(t)
	type result struct {
		ns  *netns.NS
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		ns, err := netns.Self()
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("new network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = r.ns.Close() })
	Configure(t, r.ns, func(h *netlink.Handle) error { return linkUp(h, "lo") })
	return r.ns
}

// Configure runs f with a netlink handle of the namespace; an error is fatal.
func Configure(t testing.TB, ns *netns.NS, f func(h *netlink.Handle) error) {
	t.Helper()
	h, err := netlink.NewHandleAt(vns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := f(h); err != nil {
		t.Fatalf("configure network namespace: %v", err)
	}
}

func linkUp(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

// Wire connects a pod's namespace to a node's as container runtimes do: the
// pod's end is eth0, with the addresses and default routes through the node,
// which has a route to each address. name is the node's end.
func Wire(t testing.TB, node, pod *netns.NS, name string, addrs ...netip.Addr) {
	t.Helper()
	Configure(t, node, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.FD()),
		})
	})
	Sysctl(t, node, "net/ipv4/ip_forward", "1")
	Sysctl(t, node, "net/ipv6/conf/all/forwarding", "1")
	Sysctl(t, pod, "net/ipv6/conf/eth0/accept_dad", "0")
	Sysctl(t, node, "net/ipv6/conf/"+name+"/accept_dad", "0")
	Configure(t, node, func(h *netlink.Handle) error { return wireNode(h, name, addrs) })
	Configure(t, pod, func(h *netlink.Handle) error { return wirePod(h, addrs) })
}

// The gateways are the same in every pod: link-local addresses.
var gateways = map[bool]netip.Addr{
	true:  netip.MustParseAddr("169.254.1.1"),
	false: netip.MustParseAddr("fe80::1"),
}

func wireNode(h *netlink.Handle, name string, addrs []netip.Addr) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: host(gw), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: host(a), Scope: scopeOf(a)}); err != nil {
			return err
		}
	}
	return nil
}

func wirePod(h *netlink.Handle, addrs []netip.Addr) error {
	l, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: host(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	seen := map[bool]bool{}
	for _, a := range addrs {
		if seen[a.Is4()] {
			continue
		}
		seen[a.Is4()] = true
		gw := gateways[a.Is4()]
		via := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: host(gw), Scope: scopeOf(a)}
		if err := h.RouteReplace(via); err != nil {
			return err
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: everything(a.Is4()), Gw: gw.AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

func scopeOf(a netip.Addr) netlink.Scope {
	if a.Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

func everything(v4 bool) *net.IPNet {
	if v4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// Sysctl sets a kernel parameter of the namespace.
func Sysctl(t testing.TB, ns *netns.NS, name, value string) {
	t.Helper()
	err := ns.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Listen listens in the namespace, in the address' own family only; the listener is closed when the test ends.
func Listen(t testing.TB, ns *netns.NS, address string) *net.TCPListener {
	t.Helper()
	network := "tcp6"
	if netip.MustParseAddrPort(address).Addr().Is4() {
		network = "tcp4" // "tcp" makes a dual one for the unspecified address
	}
	var ln net.Listener
	err := ns.Do(func() (err error) {
		var lc net.ListenConfig
		ln, err = lc.Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

// Dial connects from the namespace. The address must be a literal one: names,
// and races between families, would be resolved by goroutines outside.
func Dial(ns *netns.NS, d net.Dialer, address string) (conn *net.TCPConn, err error) {
	err = ns.Do(func() error {
		c, err := d.Dial("tcp", address)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}
