package redirect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/handoff"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
	"github.com/towpath-mesh/towpath/ztunnel/netns/netnstest"
)

var (
	podAddrs  = []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")}
	peerAddrs = []netip.Addr{netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("fd00::9")}
)

// world is a node with two pods, of which one gets the rules.
type world struct {
	t               *testing.T
	node, pod, peer *netns.NS
	k               Kernel
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, node: netnstest.New(t), pod: netnstest.New(t), peer: netnstest.New(t)}
	netnstest.Wire(t, w.node, w.pod, "pod", podAddrs...)
	netnstest.Wire(t, w.node, w.peer, "peer", peerAddrs...)
	return w
}

func (w *world) capture() {
	w.t.Helper()
	if changed, err := w.k.Capture(w.pod); err != nil || !changed {
		w.t.Fatalf("Capture: changed %v, error %v", changed, err)
	}
}

func at(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

func listeners(t *testing.T, ns *netns.NS, port int) []*net.TCPListener {
	return []*net.TCPListener{
		netnstest.Listen(t, ns, fmt.Sprintf("0.0.0.0:%d", port)),
		netnstest.Listen(t, ns, fmt.Sprintf("[::]:%d", port)),
	}
}

func (w *world) dial(ns *netns.NS, to string) *net.TCPConn {
	w.t.Helper()
	c, err := netnstest.Dial(ns, net.Dialer{Timeout: 5 * time.Second}, to)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func (w *world) accept(ln *net.TCPListener) *net.TCPConn {
	w.t.Helper()
	_ = ln.SetDeadline(time.Now().Add(5 * time.Second))
	c, err := ln.AcceptTCP()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// talk sends a line each way.
func (w *world) talk(a, b *net.TCPConn) {
	w.t.Helper()
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		if _, err := fmt.Fprintln(way[0], "towpath"); err != nil {
			w.t.Fatal(err)
		}
		line := make([]byte, len("towpath\n"))
		if _, err := bufio.NewReaderSize(way[1], 16).Read(line); err != nil || string(line) != "towpath\n" {
			w.t.Fatalf("got %q, %v", line, err)
		}
	}
}

func TestCaptureOutbound(t *testing.T) {
	w := newWorld(t)
	w.capture()
	for i, ln := range listeners(t, w.pod, 15001) {
		to := at(peerAddrs[i], 80)
		client := w.dial(w.pod, to)
		server := w.accept(ln)
		if dst, err := handoff.OriginalDst(server); err != nil || dst.String() != to {
			t.Errorf("original destination %v, %v; want %s", dst, err, to)
		}
		w.talk(client, server)
		// What stays in the pod is its own.
		for _, own := range []netip.Addr{podAddrs[i], netip.IPv6Loopback()} {
			_, err := netnstest.Dial(w.pod, net.Dialer{Timeout: 5 * time.Second}, at(own, 81))
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dial %s: %v, want refused by the pod itself", own, err)
			}
		}
	}
}

func TestCaptureInbound(t *testing.T) {
	w := newWorld(t)
	w.capture()
	plain, hbone := listeners(t, w.pod, 15006), listeners(t, w.pod, 15008)
	for i := range plain {
		to := at(podAddrs[i], 80)
		client := w.dial(w.peer, to)
		server := w.accept(plain[i])
		if dst, err := handoff.OriginalDst(server); err != nil || dst.String() != to {
			t.Errorf("original destination %v, %v; want %s", dst, err, to)
		}
		w.talk(client, server)
		client = w.dial(w.peer, at(podAddrs[i], 15008))
		server = w.accept(hbone[i])
		if dst, err := handoff.OriginalDst(server); err != nil || dst.String() != server.LocalAddr().String() {
			t.Errorf("original destination of a tunnel %v, %v", dst, err)
		}
		w.talk(client, server)
	}
}

// asZtunnel dials as ztunnel does: marked, from an address that is not the pod's.
func asZtunnel(local netip.Addr) net.Dialer {
	return net.Dialer{
		Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: local.AsSlice()},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			ctlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark)
				if local.Is4() {
					err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1))
				} else {
					err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
				}
			})
			return errors.Join(ctlErr, err)
		},
	}
}

// TestSpoofedSource: ztunnel connects to the application with the client's
// address, under each setting of the reverse path filter.
func TestSpoofedSource(t *testing.T) {
	for _, filter := range []string{"0", "1", "2"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			w := newWorld(t)
			for _, dev := range []string{"all", "lo", "eth0"} {
				netnstest.Sysctl(t, w.pod, "net/ipv4/conf/"+dev+"/rp_filter", filter)
			}
			w.capture()
			for i, ln := range listeners(t, w.pod, 80) {
				d := asZtunnel(peerAddrs[i])
				client, err := netnstest.Dial(w.pod, d, at(podAddrs[i], 80))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = client.Close() })
				server := w.accept(ln)
				if got := server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != peerAddrs[i] {
					t.Errorf("the application sees %v, want %v", got, peerAddrs[i])
				}
				w.talk(client, server)
			}
		})
	}
}

// TestOlderConnectionsSurvive: rules appear, begin to drain and disappear
// under connections that are older than they are, in both directions.
func TestOlderConnectionsSurvive(t *testing.T) {
	w := newWorld(t)
	podLn, peerLn := listeners(t, w.pod, 80), listeners(t, w.peer, 80)
	var pairs [][2]*net.TCPConn
	for i := range podLn {
		in := w.dial(w.peer, at(podAddrs[i], 80))
		pairs = append(pairs, [2]*net.TCPConn{in, w.accept(podLn[i])})
		out := w.dial(w.pod, at(peerAddrs[i], 80))
		pairs = append(pairs, [2]*net.TCPConn{out, w.accept(peerLn[i])})
	}
	w.talkAll(pairs)
	w.capture()
	w.talkAll(pairs)
	if err := w.k.Drain(w.pod); err != nil {
		t.Fatal(err)
	}
	w.talkAll(pairs)
	if err := w.k.Release(w.pod); err != nil {
		t.Fatal(err)
	}
	w.talkAll(pairs)
}

func (w *world) talkAll(pairs [][2]*net.TCPConn) {
	w.t.Helper()
	for _, p := range pairs {
		w.talk(p[0], p[1])
		w.talk(p[1], p[0])
	}
}

// TestCapturedConnectionsDrain: what was captured goes on while draining, and
// new connections are not captured.
func TestCapturedConnectionsDrain(t *testing.T) {
	w := newWorld(t)
	w.capture()
	var pairs [][2]*net.TCPConn
	out, in, app := listeners(t, w.pod, 15001), listeners(t, w.pod, 15006), listeners(t, w.pod, 80)
	peerLn := listeners(t, w.peer, 80)
	for i := range out {
		c := w.dial(w.pod, at(peerAddrs[i], 80))
		pairs = append(pairs, [2]*net.TCPConn{c, w.accept(out[i])})
		c = w.dial(w.peer, at(podAddrs[i], 80))
		pairs = append(pairs, [2]*net.TCPConn{c, w.accept(in[i])})
		c, err := netnstest.Dial(w.pod, asZtunnel(peerAddrs[i]), at(podAddrs[i], 80))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		pairs = append(pairs, [2]*net.TCPConn{c, w.accept(app[i])})
	}
	w.talkAll(pairs)
	if err := w.k.Drain(w.pod); err != nil {
		t.Fatal(err)
	}
	w.talkAll(pairs)
	for i := range out {
		c := w.dial(w.pod, at(peerAddrs[i], 80))
		w.talk(c, w.accept(peerLn[i]))
		c = w.dial(w.peer, at(podAddrs[i], 80))
		w.talk(c, w.accept(app[i]))
	}
}

func TestRulesAreRepairedAndRemoved(t *testing.T) {
	w := newWorld(t)
	before := w.state()
	w.capture()
	if changed, err := w.k.Capture(w.pod); err != nil || changed {
		t.Fatalf("second Capture: changed %v, error %v", changed, err)
	}
	intact := w.state()
	for _, damage := range []struct {
		name string
		do   func()
	}{
		{"table deleted", func() { must(t, Pod().uninstall(w.pod)) }},
		{"other rules", func() { must(t, DrainingPod().install(w.pod, nil)) }},
		{"rule deleted", func() { w.deleteRule("nat-output") }},
		{"routing removed", func() {
			netnstest.Configure(t, w.pod, func(h *netlink.Handle) error { return routing4.uninstall(h) })
		}},
		{"routing of IPv6 removed", func() {
			netnstest.Configure(t, w.pod, func(h *netlink.Handle) error { return routing6.uninstall(h) })
		}},
	} {
		damage.do()
		if ok, err := w.k.Captured(w.pod); err != nil || ok {
			t.Errorf("%s: noticed: %v, error %v", damage.name, !ok, err)
		}
		w.capture()
		if got := w.state(); got != intact {
			t.Errorf("%s: repaired to\n%s\nwant\n%s", damage.name, got, intact)
		}
	}
	for range 2 {
		if err := w.k.Release(w.pod); err != nil {
			t.Fatal(err)
		}
		if got := w.state(); got != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", got, before)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) deleteRule(chain string) {
	w.t.Helper()
	c, err := nft(w.pod)
	must(w.t, err)
	ch, err := c.ListChains()
	must(w.t, err)
	for _, k := range ch {
		if k.Name == chain {
			rules, err := c.GetRules(Pod().table(), k)
			must(w.t, err)
			must(w.t, c.DelRule(rules[len(rules)-1]))
		}
	}
	must(w.t, c.Flush())
}

// state is everything that the package may change, as text.
func (w *world) state() string {
	var b strings.Builder
	c, err := nft(w.pod)
	must(w.t, err)
	chains, err := c.ListChains()
	must(w.t, err)
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		must(w.t, err)
		fmt.Fprintln(&b, ch.Table.Name, ch.Name, ch.Type, len(rules))
	}
	netnstest.Configure(w.t, w.pod, func(h *netlink.Handle) error {
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := h.RuleList(f)
			if err != nil {
				return err
			}
			for _, r := range rules {
				fmt.Fprintln(&b, r)
			}
			routes, err := h.RouteListFiltered(f, &netlink.Route{Table: RouteTable}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				fmt.Fprintln(&b, r)
			}
		}
		return nil
	})
	return b.String()
}

func TestIPv6Disabled(t *testing.T) {
	w := &world{t: t, node: netnstest.New(t), pod: netnstest.New(t), peer: netnstest.New(t)}
	for _, ns := range []*netns.NS{w.pod, w.peer} {
		netnstest.Sysctl(t, ns, "net/ipv6/conf/all/disable_ipv6", "1")
	}
	netnstest.Wire(t, w.node, w.pod, "pod", podAddrs[0])
	netnstest.Wire(t, w.node, w.peer, "peer", peerAddrs[0])
	if w.k.HasIPv6(w.pod) || !w.k.HasIPv6(w.node) {
		t.Fatal("IPv6 is not told from no IPv6")
	}
	w.capture()
	if ok, err := w.k.Captured(w.pod); err != nil || !ok {
		t.Fatalf("captured %v, error %v", ok, err)
	}
	ln := netnstest.Listen(t, w.pod, "0.0.0.0:15001")
	w.talk(w.dial(w.pod, at(peerAddrs[0], 80)), w.accept(ln))
	// IPv6 that is enabled later is noticed.
	netnstest.Sysctl(t, w.pod, "net/ipv6/conf/all/disable_ipv6", "0")
	if ok, err := w.k.Captured(w.pod); err != nil || ok {
		t.Fatalf("captured %v, error %v", ok, err)
	}
	w.capture()
	must(t, w.k.Release(w.pod))
}

func TestProbes(t *testing.T) {
	w := newWorld(t)
	w.capture()
	app, plain := listeners(t, w.pod, 80), listeners(t, w.pod, 15006)
	for i := range app {
		w.talk(w.dial(w.node, at(podAddrs[i], 80)), w.accept(plain[i])) // not yet in the set
	}
	must(t, w.k.SetProbed(w.node, podAddrs))
	for i := range app {
		client := w.dial(w.node, at(podAddrs[i], 80))
		server := w.accept(app[i])
		w.talk(client, server)
		if from := server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != ProbeAddr4 && from != ProbeAddr6 {
			t.Errorf("probe comes from %v", from)
		}
		w.talk(w.dial(w.peer, at(podAddrs[i], 80)), w.accept(plain[i])) // forwarded: no probe
	}
	more := append(slices.Clone(podAddrs), peerAddrs...)
	for _, want := range [][]netip.Addr{more, peerAddrs, peerAddrs, nil, podAddrs} {
		must(t, w.k.SetProbed(w.node, want))
		got, err := w.k.Probed(w.node)
		want = slices.SortedFunc(slices.Values(want), netip.Addr.Compare)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("probed %v, %v; want %v", got, err, want)
		}
	}
	must(t, Node().uninstall(w.node)) // somebody flushed the node's rules
	must(t, w.k.SetProbed(w.node, podAddrs))
	if got, err := w.k.Probed(w.node); err != nil || len(got) != 2 {
		t.Errorf("probed %v, %v", got, err)
	}
	must(t, w.k.RemoveProbed(w.node))
	must(t, w.k.RemoveProbed(w.node))
}

var comment = regexp.MustCompile(` comment "towpath [0-9a-f]+"`)

// TestKernelAgreesWithText compares what nft finds in the kernel with what the
// rules say of themselves.
func TestKernelAgreesWithText(t *testing.T) {
	netnstest.RequireRoot(t)
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("no nft on this machine")
	}
	for name, r := range rulesets {
		ns := netnstest.New(t)
		must(t, r.install(ns, nil))
		var out []byte
		must(t, ns.Do(func() (err error) {
			// The child is forked from this thread, and so inside.
			out, err = exec.CommandContext(context.Background(), path, "list", "ruleset").CombinedOutput()
			return err
		}))
		if got := comment.ReplaceAllString(string(out), ""); got != r.String() {
			t.Errorf("%s: nft shows\n%s\nwant\n%s", name, got, r)
		}
	}
}
