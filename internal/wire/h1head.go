package wire

import (
	"bytes"
	"strings"
)

// h1Framing is what a head says about the bytes that follow it.
type h1Framing struct {
	method, target string
	length         int64 // of the body; 0 when chunked
	chunked        bool
	websocket      bool // asks to leave HTTP
}

// checkH1Head checks a head, from its request line to the empty line, more
// strictly than RFC 9112 lets a server do: what two parsers could read
// differently is refused. The result names method and target even then, if they
// can be told.
func checkH1Head(text []byte) (h1Framing, *Refusal) {
	var f h1Framing
	line, rest, _ := bytes.Cut(text, []byte("\r\n"))
	minor, ref := f.requestLine(string(line))
	if ref != nil {
		return f, ref
	}
	var fields []Field
	for len(rest) > 2 { // the empty line is left
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		field, ref := fieldLine(string(line))
		if ref != nil {
			return f, ref
		}
		fields = append(fields, field)
	}
	if ref := (&head{fields: fields}).checkLimits(); ref != nil {
		return f, ref
	}
	return f, f.bodyOf(fields, minor)
}

// requestLine takes "method SP target SP HTTP/1.x"; minor is the x.
func (f *h1Framing) requestLine(line string) (minor byte, ref *Refusal) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || !isToken(method) || target == "" || !validQuery(strings.ReplaceAll(target, "#", "")) {
		return 0, bad("malformed request line")
	}
	f.method, f.target = method, target
	switch {
	case version == "HTTP/1.1" || version == "HTTP/1.0":
		return version[7], nil
	case len(version) == 8 && strings.HasPrefix(version, "HTTP/") && version[6] == '.':
		return 0, &Refusal{Status: 505, Reason: "HTTP version not supported"}
	}
	return 0, bad("malformed request line")
}

func fieldLine(line string) (Field, *Refusal) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) || !validValue(value) {
		return Field{}, bad("malformed header field") // a folded line too
	}
	return Field{Name: name, Value: strings.Trim(value, " \t")}, nil
}

// bodyOf finds out how the body is framed (RFC 9112 section 6.3), and takes no
// message that says it twice.
func (f *h1Framing) bodyOf(fields []Field, minor byte) *Refusal {
	lengths, codings := valuesOf(fields, "Content-Length"), valuesOf(fields, "Transfer-Encoding")
	switch {
	case len(codings) > 0 && (len(lengths) > 0 || minor == '0' || len(codings) > 1):
		return bad("ambiguous body length")
	case len(codings) > 0:
		if !EqualName(codings[0], "chunked") {
			return refuseCoding(codings[0])
		}
		f.chunked = true
	case len(lengths) > 1:
		return bad("more than one Content-Length")
	case len(lengths) == 1:
		n, ok := parseLength(lengths[0])
		if !ok {
			return bad("invalid Content-Length")
		}
		f.length = n
	}
	for _, u := range valuesOf(fields, "Upgrade") {
		f.websocket = f.websocket || EqualName(u, "websocket") && listedBy(valuesOf(fields, "Connection"), "upgrade")
	}
	return nil
}

// refuseCoding tells codings that exist from what only looks like one.
func refuseCoding(value string) *Refusal {
	tokens := strings.Split(value, ",")
	for i, t := range tokens {
		t = strings.ToLower(strings.Trim(t, " \t"))
		known := t == "gzip" || t == "x-gzip" || t == "deflate" || t == "compress" || t == "x-compress"
		if last := i == len(tokens)-1; last != (t == "chunked") || !last && !known {
			return bad("invalid Transfer-Encoding")
		}
	}
	return &Refusal{Status: 501, Reason: "transfer coding not supported"}
}

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
