package redirect

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/ztunnel/netns"
)

// Kernel applies rules to network namespaces. Its methods are idempotent and
// need CAP_NET_ADMIN and CAP_SYS_ADMIN.
type Kernel struct {
	// Proc is where the proc file system is mounted writable; "/proc" if "".
	// In a container the usual one is read-only.
	Proc string
}

// sysctls of a pod, wanted but not needed:
//
//   - tcp_migrate_req lets connections that wait on a listening socket which is
//     closed move to another one of the same port (Linux 5.14).
//   - nf_conntrack_tcp_be_liberal: a segment outside the window is translated
//     as the others are, and does not reach a port where nobody knows it, whose
//     reset would end the connection.
var podSysctls = []string{"net/ipv4/tcp_migrate_req", "net/netfilter/nf_conntrack_tcp_be_liberal"}

// Capture makes the namespace that of an enrolled pod. What is intact is left
// alone; changed says whether anything was not.
func (k Kernel) Capture(ns *netns.NS) (changed bool, err error) {
	return k.ensure(ns, Pod())
}

// Drain stops the capture of new connections; captured ones go on.
func (k Kernel) Drain(ns *netns.NS) error {
	_, err := k.ensure(ns, DrainingPod())
	return err
}

// Captured reports whether the rules of an enrolled pod are all there.
func (k Kernel) Captured(ns *netns.NS) (bool, error) {
	return k.intact(ns, Pod())
}

// Present reports whether any of the package's rules are in a pod's namespace,
// intact or not.
func (k Kernel) Present(ns *netns.NS) (bool, error) { return Pod().present(ns) }

// Release removes rules and routes. Captured connections break: Drain first.
// Sysctls stay as they are: they change nothing for anyone else.
func (k Kernel) Release(ns *netns.NS) error {
	if err := Pod().uninstall(ns); err != nil {
		return err
	}
	return withNetlink(ns, func(h *netlink.Handle) error {
		if err := routing4.uninstall(h); err != nil {
			return err
		}
		return routing6.uninstall(h)
	})
}

func (k Kernel) ensure(ns *netns.NS, want Ruleset) (changed bool, err error) {
	ok, err := k.intact(ns, want)
	if err != nil || ok {
		return false, err
	}
	// Routes first: once a rule marks packets they must have somewhere to go.
	err = withNetlink(ns, func(h *netlink.Handle) error {
		for _, r := range k.routings(ns) {
			if err := r.install(h); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if ok, err := want.intact(ns); err != nil || !ok {
		if err != nil {
			return false, err
		}
		if err := want.install(ns, nil); err != nil {
			return false, err
		}
	}
	k.setSysctls(ns)
	return true, nil
}

func (k Kernel) intact(ns *netns.NS, want Ruleset) (bool, error) {
	ok, err := want.intact(ns)
	if err != nil || !ok {
		return false, err
	}
	err = withNetlink(ns, func(h *netlink.Handle) error {
		for _, r := range k.routings(ns) {
			fine, err := r.intact(h)
			if err != nil {
				return err
			}
			ok = ok && fine
		}
		return nil
	})
	return ok, err
}

// routings returns what routing the namespace can have: IPv6 may be disabled.
func (k Kernel) routings(ns *netns.NS) []routing {
	if k.HasIPv6(ns) {
		return []routing{routing4, routing6}
	}
	return []routing{routing4}
}

// HasIPv6 reports whether IPv6 works in the namespace at all.
func (k Kernel) HasIPv6(ns *netns.NS) bool {
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
		off, err := os.ReadFile(k.sysctl("net/ipv6/conf/lo/disable_ipv6"))
		if err == nil && strings.TrimSpace(string(off)) != "0" {
			return fmt.Errorf("disabled")
		}
		return nil
	})
	return err == nil
}

// setSysctls does what it can: a kernel without one of them, or a read-only
// proc, costs only what it is good for.
func (k Kernel) setSysctls(ns *netns.NS) {
	_ = ns.Do(func() error {
		for _, name := range podSysctls {
			_ = os.WriteFile(k.sysctl(name), []byte("1"), 0)
		}
		return nil
	})
}

func (k Kernel) sysctl(name string) string {
	proc := k.Proc
	if proc == "" {
		proc = "/proc"
	}
	return filepath.Join(proc, "sys", name)
}
