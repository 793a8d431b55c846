package wire

import (
	"net/netip"
	"strconv"
	"strings"
)

// CanonicalAuthority checks host[:port] of a request and returns it in lower
// case. It takes names of letters, digits, '-', '_' and '.', and addresses;
// user information, escapes and everything else that servers read differently
// are refused.
func CanonicalAuthority(s string) (string, *Refusal) {
	host, port, ref := splitAuthority(s)
	if ref != nil {
		return "", ref
	}
	host = strings.ToLower(host)
	if port == "" {
		return host, nil
	}
	return host + ":" + port, nil
}

func splitAuthority(s string) (host, port string, ref *Refusal) {
	end := len(s)
	if strings.HasPrefix(s, "[") {
		closing := strings.IndexByte(s, ']')
		if closing < 0 {
			return "", "", bad("invalid authority")
		}
		addr, err := netip.ParseAddr(s[1:closing])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", bad("invalid address in the authority")
		}
		end = closing + 1
	} else {
		if colon := strings.IndexByte(s, ':'); colon >= 0 {
			end = colon
		}
		if !validHost(s[:end]) {
			return "", "", bad("invalid host in the authority")
		}
	}
	host, rest := s[:end], s[end:]
	if rest == "" || rest == ":" {
		return host, "", nil
	}
	port, ok := strings.CutPrefix(rest, ":")
	if n, err := strconv.ParseUint(port, 10, 16); !ok || err != nil || n == 0 || port[0] == '0' || port[0] == '+' {
		return "", "", bad("invalid port in the authority")
	}
	return host, port, nil
}

func validHost(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !unreserved(c) || c == '~' {
			return false
		}
	}
	return true
}

// SplitHostPort splits a canonical authority. The port is 0 when it has none;
// the brackets of an IPv6 address stay with the host.
func SplitHostPort(authority string) (host string, port uint16) {
	host, p, ref := splitAuthority(authority)
	if ref != nil {
		return authority, 0
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	return host, uint16(n)
}
