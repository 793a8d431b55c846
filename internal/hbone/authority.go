package hbone

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Authority is the destination of a CONNECT: an address or a host name, and a
// port (RFC 9113 section 8.5: host and port, nothing else).
type Authority struct {
	// Host is the host name in lower case; empty when Addr is set.
	Host string
	// Addr is the address; the zero Addr when Host is set.
	Addr netip.Addr
	// Port is never 0.
	Port uint16
}

// String returns the form that goes on the wire.
func (a Authority) String() string {
	if a.Host != "" {
		return a.Host + ":" + strconv.Itoa(int(a.Port))
	}
	return netip.AddrPortFrom(a.Addr, a.Port).String()
}

// AddrPort returns the address and port; ok is false for a host name.
func (a Authority) AddrPort() (addr netip.AddrPort, ok bool) {
	return netip.AddrPortFrom(a.Addr, a.Port), a.Host == ""
}

var errAuthority = errors.New("authority is not host:port")

// ParseAuthority parses the authority of a CONNECT. It is strict, because the
// peer wrote it: the port is required and has no leading zero; an IPv6 address
// stands in brackets, without zone, and is not an IPv4 address in disguise; a
// host name consists of letters, digits, '-' and '_' in labels of 1 to 63
// bytes, 253 in all, and does not look like an IPv4 address.
func ParseAuthority(s string) (Authority, error) {
	colon := strings.LastIndexByte(s, ':')
	if colon <= 0 {
		return Authority{}, fmt.Errorf("%w: %.300q", errAuthority, s)
	}
	port, err := parsePort(s[colon+1:])
	if err != nil {
		return Authority{}, fmt.Errorf("%w: %.300q", errAuthority, s)
	}
	host := s[:colon]
	if addr, ok := parseHostAddr(host); ok {
		return Authority{Addr: addr, Port: port}, nil
	}
	if !isHostName(host) {
		return Authority{}, fmt.Errorf("%w: %.300q", errAuthority, s)
	}
	return Authority{Host: strings.ToLower(host), Port: port}, nil
}

func parsePort(s string) (uint16, error) {
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, errAuthority
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// parseHostAddr parses "192.0.2.1" or "[2001:db8::1]".
func parseHostAddr(host string) (netip.Addr, bool) {
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var closed bool
		if inner, closed = strings.CutSuffix(inner, "]"); !closed {
			return netip.Addr{}, false
		}
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil || addr.Is6() != bracketed || addr.Zone() != "" || addr.Is4In6() {
		return netip.Addr{}, false
	}
	return addr, true
}

func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
		last = label
	}
	// A name whose last label is a number is an attempt at an IPv4 address.
	return strings.Trim(last, "0123456789") != ""
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return true
}
