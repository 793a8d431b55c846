package hbone

import (
	"errors"
	"net/netip"
	"strings"
)

var errForwarded = errors.New("forwarded names no client address")

// FormatForwarded returns the value of a forwarded field (RFC 7239) that tells
// the client's address: for="192.0.2.1:4711".
func FormatForwarded(client netip.AddrPort) string {
	return `for="` + client.String() + `"`
}

// ParseForwarded returns the client address that a forwarded field tells. The
// port is 0 when the field tells none. Fields with more than one element have
// passed a proxy that does not belong to the tunnel and are refused; parameters
// other than "for" are passed over.
func ParseForwarded(value string) (netip.AddrPort, error) {
	var client netip.AddrPort
	rest := value
	for rest != "" {
		name, val, after, ok := nextParameter(rest)
		if !ok {
			return netip.AddrPort{}, errForwarded
		}
		rest = after
		if !strings.EqualFold(name, "for") {
			continue
		}
		if client.IsValid() {
			return netip.AddrPort{}, errForwarded
		}
		if client, ok = parseNode(val); !ok {
			return netip.AddrPort{}, errForwarded
		}
	}
	if !client.IsValid() {
		return netip.AddrPort{}, errForwarded
	}
	return client, nil
}

// nextParameter splits `name=value;rest`, the value a token or a quoted string
// without escapes.
func nextParameter(s string) (name, value, rest string, ok bool) {
	name, s, ok = strings.Cut(s, "=")
	if !ok || !isToken(name) {
		return "", "", "", false
	}
	if quoted, isQuoted := strings.CutPrefix(s, `"`); isQuoted {
		value, s, ok = strings.Cut(quoted, `"`)
		if !ok || strings.ContainsRune(value, '\\') {
			return "", "", "", false
		}
	} else {
		end := strings.IndexByte(s, ';')
		if end < 0 {
			end = len(s)
		}
		value, s = s[:end], s[end:]
		if !isToken(value) {
			return "", "", "", false
		}
	}
	if s == "" {
		return name, value, "", true
	}
	rest, ok = strings.CutPrefix(s, ";")
	return name, value, rest, ok && rest != ""
}

func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

func parseNode(s string) (netip.AddrPort, bool) {
	if a, err := ParseAuthority(s); err == nil {
		return a.AddrPort()
	}
	addr, ok := parseHostAddr(s)
	return netip.AddrPortFrom(addr, 0), ok
}
