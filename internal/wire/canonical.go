package wire

import "strings"

// target is a parsed request target.
type target struct {
	scheme, authority string // of the absolute form only
	path, query       string
	hasQuery          bool
}

// parseTarget parses a request target (RFC 9112 section 3.2) in origin form,
// absolute form or, for OPTIONS, asterisk form.
func parseTarget(method, raw string) (target, *Refusal) {
	if len(raw) > MaxTargetBytes {
		return target{}, &Refusal{Status: 414, Reason: "target too long"}
	}
	if raw == "*" {
		if method != "OPTIONS" {
			return target{}, bad("asterisk target with a method other than OPTIONS")
		}
		return target{path: "*"}, nil
	}
	var t target
	if !strings.HasPrefix(raw, "/") {
		var ref *Refusal
		if raw, ref = t.cutAbsolute(raw); ref != nil {
			return target{}, ref
		}
	}
	rawPath, query, hasQuery := strings.Cut(raw, "?")
	if !validQuery(query) {
		return target{}, bad("invalid byte in the query")
	}
	path, ref := CanonicalPath(rawPath)
	if ref != nil {
		return target{}, ref
	}
	t.path, t.query, t.hasQuery = path, query, hasQuery
	return t, nil
}

// cutAbsolute takes scheme and authority off "http://host/path?query".
func (t *target) cutAbsolute(raw string) (rest string, ref *Refusal) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || (!strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https")) {
		return "", bad("target is neither a path nor an http URI")
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, ref := CanonicalAuthority(rest[:end])
	if ref != nil {
		return "", ref
	}
	t.scheme, t.authority = strings.ToLower(scheme), authority
	if rest = rest[end:]; !strings.HasPrefix(rest, "/") {
		rest = "/" + rest
	}
	return rest, nil
}

func validQuery(q string) bool {
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// CanonicalPath returns the one form of a path that stands for all equivalent
// ones: percent-encoded unreserved characters are decoded, other escapes are in
// upper case, characters that a path cannot hold are escaped, dot segments are
// resolved (RFC 3986 section 6.2.2). Empty segments and encoded slashes are
// kept: they mean something to some servers. A path that different servers read
// differently has no such form: control characters, 8-bit bytes, '#', bad
// escapes, %00, a way above the root, and "..;" segments.
func CanonicalPath(raw string) (string, *Refusal) {
	if !strings.HasPrefix(raw, "/") {
		return "", bad("path does not begin with a slash")
	}
	if isCanonical(raw) {
		return raw, nil
	}
	clean, ref := normaliseEscapes(raw)
	if ref != nil {
		return "", ref
	}
	return resolveDots(clean)
}

// isCanonical is the short way for what nearly all paths look like.
func isCanonical(p string) bool {
	for i := range len(p) {
		switch c := p[i]; {
		case c == '.' && p[i-1] == '/': // p[0] is a slash
			return false
		case !pathByte[c]:
			return false
		}
	}
	return true
}

// pathByte tells the bytes that a canonical path holds as they are: pchar of
// RFC 3986 and the slash. Brackets are not pchar, but widely sent and never
// misread.
var pathByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = unreserved(byte(c)) || strings.IndexByte("/!$&'()*+,;=:@[]", byte(c)) >= 0
	}
	return t
}()

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func normaliseEscapes(raw string) (string, *Refusal) {
	var b strings.Builder
	b.Grow(len(raw) + 8)
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		escaped := c == '%'
		switch {
		case escaped:
			v, ok := unhex(raw, i+1)
			if !ok {
				return "", bad("invalid escape in the path")
			}
			if v == 0 {
				return "", bad("NUL in the path")
			}
			c, i = v, i+2
		case c <= ' ' || c >= 0x7f || c == '#':
			return "", bad("invalid byte in the path")
		}
		if unreserved(c) || !escaped && pathByte[c] {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
	}
	return b.String(), nil
}

func unhex(s string, i int) (byte, bool) {
	if i+1 >= len(s) {
		return 0, false
	}
	hi, ok1 := hexDigit(s[i])
	lo, ok2 := hexDigit(s[i+1])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// resolveDots removes "." and ".." segments (RFC 3986 section 5.2.4).
func resolveDots(p string) (string, *Refusal) {
	if !strings.Contains(p, "/.") {
		return p, nil
	}
	var out []string
	segments := strings.Split(p[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch {
		case strings.HasPrefix(s, ".;") || strings.HasPrefix(s, "..;"):
			return "", bad("dot segment with a parameter")
		case s == "..":
			if len(out) == 0 {
				return "", bad("path leads above the root")
			}
			out = out[:len(out)-1]
		case s != ".":
			out = append(out, s)
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/"), nil
}
