package agent

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/ztunnel/handoff"
	"github.com/towpath-mesh/towpath/ztunnel/netns"
	"github.com/towpath-mesh/towpath/ztunnel/redirect"
)

// backlog is how many connections may wait while no ztunnel accepts; the
// kernel lowers it to net.core.somaxconn.
const backlog = 4096

var ports = []struct {
	purpose handoff.Purpose
	port    int
}{
	{handoff.Outbound, mesh.PortOutbound},
	{handoff.Plaintext, mesh.PortPlaintext},
	{handoff.HBONE, mesh.PortHBONE},
}

// listen opens the listening sockets of a pod: all, or none and an error. They
// share their ports (SO_REUSEPORT) with those of an earlier agent, which
// ztunnel may still hold.
func listen(ns *netns.NS, v6 bool) ([]handoff.Listener, error) {
	families := []int{unix.AF_INET}
	if v6 {
		families = append(families, unix.AF_INET6)
	}
	var out []handoff.Listener
	err := ns.Do(func() error {
		for _, family := range families {
			for _, p := range ports {
				fd, err := listenTCP(family, p.port)
				if err != nil {
					return fmt.Errorf("listen on port %d in the pod: %w", p.port, err)
				}
				out = append(out, handoff.Listener{Purpose: p.purpose, FD: fd})
			}
		}
		return nil
	})
	if err != nil {
		for _, l := range out {
			_ = unix.Close(l.FD)
		}
		return nil, err
	}
	return out, nil
}

func listenTCP(family, port int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
	)
	var addr unix.Sockaddr = &unix.SockaddrInet4{Port: port}
	if family == unix.AF_INET6 {
		addr = &unix.SockaddrInet6{Port: port}
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// connectors makes the sockets that ztunnel connects with, in the namespace:
// marked, so that the rules let them pass and answers find back, and with the
// right to any source address.
func connectors(ns *netns.NS, family handoff.Family, count int) ([]int, error) {
	var fds []int
	err := ns.Do(func() error {
		for range count {
			fd, err := connector(family)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
		}
		return nil
	})
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("socket in the pod: %w", err)
	}
	return fds, nil
}

func connector(family handoff.Family) (int, error) {
	domain, level, transparent := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	if family == handoff.IPv6 {
		domain, level, transparent = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, redirect.Mark),
		unix.SetsockoptInt(fd, level, transparent, 1),
		// The port is chosen at connect, when the destination is known: one
		// source address is then good for 28,000 connections to each of them.
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
	)
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// carries reports whether connections are left that ztunnel has accepted in the
// namespace. If that cannot be told, there are none.
func carries(ns *netns.NS) bool {
	found := false
	_ = ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range sockets {
				idle := s.State == netlink.TCP_LISTEN || s.State == netlink.TCP_TIME_WAIT || s.State == netlink.TCP_CLOSE
				found = found || (!idle && captures(s.ID.SourcePort))
			}
		}
		return nil
	})
	return found
}

func captures(port uint16) bool {
	for _, p := range ports {
		if p.port == int(port) {
			return true
		}
	}
	return false
}
