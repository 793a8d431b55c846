package wire

import (
	"iter"
	"strings"
)

// Field is one header field line. The name is spelt as it was received or set.
type Field struct{ Name, Value string }

// Header is a list of header fields in the order of the wire. Names compare
// without case. The zero Header is empty and ready to use.
//
// It never holds what frames a message or belongs to one hop (RFC 9110 section
// 7.6.1): the engines keep that for themselves.
type Header struct {
	fields []Field
}

// NewHeader returns a Header of the fields, which it takes over.
func NewHeader(fields ...Field) Header { return Header{fields: fields} }

// Len returns the number of field lines.
func (h *Header) Len() int { return len(h.fields) }

// Get returns the value of the first field of that name, "" if there is none.
func (h *Header) Get(name string) string {
	for i := range h.fields {
		if EqualName(h.fields[i].Name, name) {
			return h.fields[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field of that name.
func (h *Header) Has(name string) bool {
	for i := range h.fields {
		if EqualName(h.fields[i].Name, name) {
			return true
		}
	}
	return false
}

// Combined returns all values of that name joined by ", " (RFC 9110 section
// 5.3), and whether there is any.
func (h *Header) Combined(name string) (string, bool) {
	var value string
	count := 0
	for i := range h.fields {
		if !EqualName(h.fields[i].Name, name) {
			continue
		}
		if count == 0 {
			value = h.fields[i].Value
		} else {
			value += ", " + h.fields[i].Value
		}
		count++
	}
	return value, count > 0
}

// Values yields the values of that name in order.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.fields {
			if EqualName(h.fields[i].Name, name) && !yield(h.fields[i].Value) {
				return
			}
		}
	}
}

// All yields every field in order. The Header must not be changed meanwhile.
func (h *Header) All() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for i := range h.fields {
			if !yield(h.fields[i].Name, h.fields[i].Value) {
				return
			}
		}
	}
}

// Add appends a field.
func (h *Header) Add(name, value string) {
	h.fields = append(h.fields, Field{Name: name, Value: value})
}

// Set makes the field the only one of its name; it keeps the place of the
// first.
func (h *Header) Set(name, value string) {
	for i := range h.fields {
		if EqualName(h.fields[i].Name, name) {
			h.fields[i] = Field{Name: name, Value: value}
			h.delFrom(i+1, name)
			return
		}
	}
	h.Add(name, value)
}

// Del removes every field of that name.
func (h *Header) Del(name string) { h.delFrom(0, name) }

func (h *Header) delFrom(start int, name string) {
	h.DelFunc(start, func(f Field) bool { return EqualName(f.Name, name) })
}

// DelFunc removes the fields at index start and later of which del is true.
func (h *Header) DelFunc(start int, del func(Field) bool) {
	kept := h.fields[:start]
	for _, f := range h.fields[start:] {
		if !del(f) {
			kept = append(kept, f)
		}
	}
	clear(h.fields[len(kept):])
	h.fields = kept
}

// Clone returns a copy that shares nothing with h.
func (h *Header) Clone() Header {
	return Header{fields: append([]Field(nil), h.fields...)}
}

// EqualName reports whether two field names are the same: ASCII, without case.
func EqualName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if x, y := a[i], b[i]; x != y && lower(x) != lower(y) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// hasToken reports whether a comma-separated list holds the token, without
// case.
func hasToken(list, token string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if EqualName(strings.Trim(t, " \t"), token) {
			return true
		}
	}
	return false
}

// hopByHop names the fields that belong to one connection or frame a message
// (RFC 9110 section 7.6.1, RFC 9112 section 6). Proxy-Authenticate and
// Proxy-Authorization are for a proxy that the client was told of, which
// Towpath is not, but no server behind it should see them either.
var hopByHop = [...]string{
	"Connection", "Content-Length", "Host", "HTTP2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
}

// isHopByHop reports whether a field may not stand in a Header.
func isHopByHop(name string) bool {
	for _, h := range hopByHop {
		if EqualName(h, name) {
			return true
		}
	}
	return false
}

// listedBy reports whether one of the Connection fields names the field.
func listedBy(connection []string, name string) bool {
	for _, list := range connection {
		if hasToken(list, name) {
			return true
		}
	}
	return false
}
