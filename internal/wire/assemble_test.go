package wire

import (
	"slices"
	"strings"
	"testing"
)

func TestHeadRefused(t *testing.T) {
	long := strings.Repeat("x", MaxFieldBytes)
	many := make([]Field, MaxFields+1)
	for i := range many {
		many[i] = Field{"a", "b"}
	}
	for _, tt := range []struct {
		name   string
		h      head
		status int
	}{
		{"good", head{method: "GET", target: "/", authority: "a"}, 0},
		{"CONNECT", head{method: "CONNECT", target: "a:1", authority: "a"}, 405},
		{"TRACE", head{method: "TRACE", target: "/", authority: "a"}, 405},
		{"method", head{method: "GET /x HTTP/1.1", target: "/", authority: "a"}, 400},
		{"no authority", head{proto: HTTP11, method: "GET", target: "/"}, 400},
		{"no authority in 1.0", head{proto: HTTP10, method: "GET", target: "/"}, 0},
		{"bad authority", head{method: "GET", target: "/", authority: "a/b"}, 400},
		{"host differs", head{proto: HTTP2, method: "GET", target: "/", authority: "a", host: []string{"b"}}, 400},
		{"host same", head{proto: HTTP2, method: "GET", target: "/", authority: "A", host: []string{"a"}}, 0},
		{"field too long", head{method: "GET", target: "/", authority: "a", fields: []Field{{"a", long}}}, 431},
		{"too many", head{method: "GET", target: "/", authority: "a", fields: many}, 431},
		{"value", head{method: "GET", target: "/", authority: "a", fields: []Field{{"a", "x\ny"}}}, 400},
		{"name", head{method: "GET", target: "/", authority: "a", fields: []Field{{"a b", "x"}}}, 400},
		{"upgrade with body", head{proto: HTTP11, method: "GET", target: "/", authority: "a", hasBody: true,
			fields: []Field{{"Connection", "upgrade"}, {"Upgrade", "websocket"}}}, 400},
		{"upgrade by POST", head{proto: HTTP11, method: "POST", target: "/", authority: "a",
			fields: []Field{{"Connection", "upgrade"}, {"Upgrade", "websocket"}}}, 400},
	} {
		r := tt.h.request()
		status := 0
		if r.Refused != nil {
			status = r.Refused.Status
		}
		if status != tt.status {
			t.Errorf("%s: %v, want %d", tt.name, r.Refused, tt.status)
		}
	}
}

// TestHopByHop: what belongs to one connection is understood or dropped.
func TestHopByHop(t *testing.T) {
	h := head{proto: HTTP11, method: "GET", target: "/", authority: "a", fields: []Field{
		{"Accept", "*/*"}, {"Connection", "close, x-listed"}, {"X-Listed", "1"}, {"Keep-Alive", "1"}, {"TE", "trailers, deflate"},
		{"Upgrade", "h2c"}, {"HTTP2-Settings", "AAA"}, {"Proxy-Authorization", "x"}, {"Transfer-Encoding", "chunked"}, {"Trailer", "x"},
		{"expect", "100-continue"}, {"X-Kept", "1"},
	}}
	r := h.request()
	if r.Refused != nil {
		t.Fatal(r.Refused)
	}
	var names []string
	for name := range r.Header.All() {
		names = append(names, name)
	}
	if want := []string{"Accept", "X-Kept"}; !slices.Equal(names, want) {
		t.Errorf("kept %v, want %v", names, want)
	}
	if !r.TETrailers || r.Upgrade != "" {
		t.Errorf("TETrailers %t, Upgrade %q; want true and none", r.TETrailers, r.Upgrade)
	}
}

func TestHeader(t *testing.T) {
	h := NewHeader(Field{"A", "1"}, Field{"b", "2"}, Field{"a", "3"})
	if got, _ := h.Combined("a"); got != "1, 3" {
		t.Errorf("Combined = %q", got)
	}
	h.Set("a", "4")
	h.Add("C", "5")
	h.Del("B")
	want := []Field{{"a", "4"}, {"C", "5"}}
	if !slices.Equal(h.fields, want) {
		t.Errorf("fields %v, want %v", h.fields, want)
	}
	c := h.Clone()
	c.Set("a", "6")
	if h.Get("A") != "4" || !h.Has("c") || h.Has("b") {
		t.Errorf("after a change of the clone: %v", h.fields)
	}
}
