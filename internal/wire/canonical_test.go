package wire

import (
	"net/url"
	"strings"
	"testing"
)

func TestCanonicalPath(t *testing.T) {
	for _, tt := range []struct{ in, want string }{ // want "" means refused
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"//a//b", "//a//b"},
		{"/a/../b", "/b"},
		{"/a/%2e%2e/b", "/b"},
		{"/a/.%2E/b", "/b"},
		{"/a/./b/.", "/a/b/"},
		{"/a/b/..", "/a/"},
		{"/a//../b", "/a/b"},
		{"/.well-known/x", "/.well-known/x"},
		{"/...", "/..."},
		{"/a.", "/a."},
		{"/..", ""},
		{"/a/../../b", ""},
		{"/%2e%2e/b", ""},
		{"/a;x/b", "/a;x/b"},
		{"/a/..;/b", ""},
		{"/a/.;p/b", ""},
		{"/a/%2e%2e;x/b", ""},
		{"/%61%7a%7E", "/az~"},
		{"/%c3%a9", "/%C3%A9"},
		{"/a%2fb%5cc", "/a%2Fb%5Cc"},
		{`/a\b`, "/a%5Cb"},
		{`/"<>^{|}` + "`", "/%22%3C%3E%5E%7B%7C%7D%60"},
		{"/[x]", "/[x]"},
		{"/%00", ""},
		{"/%zz", ""},
		{"/%", ""},
		{"/%4", ""},
		{"/a b", ""},
		{"/a\tb", ""},
		{"/\x80", ""},
		{"/a#b", ""},
		{"", ""},
		{"a", ""},
		{"*", ""},
	} {
		got, ref := CanonicalPath(tt.in)
		if (ref != nil) != (tt.want == "") || got != tt.want {
			t.Errorf("CanonicalPath(%q) = %q, %v; want %q", tt.in, got, ref, tt.want)
		}
	}
}

// FuzzCanonicalPath: the canonical form is a fixed point, holds nothing that two
// parsers could take for different things, and leaves the engine as it is.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/", "/a;x/..;/b", "/%61", "//", "/[", "/a%2f..%2fb", "/%C3%A9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, ref := CanonicalPath(in)
		if ref != nil {
			return
		}
		again, ref := CanonicalPath(got)
		if ref != nil || again != got {
			t.Fatalf("canonical(%q) = %q, and of that %q, %v", in, got, again, ref)
		}
		for segment := range strings.SplitSeq(got, "/") {
			plain, err := url.PathUnescape(segment)
			if err != nil {
				t.Fatalf("%q: %v", got, err)
			}
			if plain == "." || plain == ".." || strings.HasPrefix(plain, "..;") || strings.ContainsRune(plain, 0) {
				t.Fatalf("canonical(%q) = %q holds %q", in, got, plain)
			}
		}
		path, _ := url.PathUnescape(got)
		if u := (&url.URL{Path: path, RawPath: got}); u.RequestURI() != got {
			t.Fatalf("%q leaves as %q", got, u.RequestURI())
		}
	})
}

func TestCanonicalAuthority(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"echo", "echo"},
		{"Echo.Example.COM:8080", "echo.example.com:8080"},
		{"echo_v1.ns", "echo_v1.ns"},
		{"echo:", "echo"},
		{"10.0.0.1:80", "10.0.0.1:80"},
		{"[2001:DB8::1]:80", "[2001:db8::1]:80"},
		{"[::1]", "[::1]"},
		{"", ""},
		{":80", ""},
		{"a/b", ""},
		{"a b", ""},
		{"user@host", ""},
		{"a:b", ""},
		{"a:0", ""},
		{"a:080", ""},
		{"a:65536", ""},
		{"a:1:2", ""},
		{"a:+1", ""},
		{"[::1", ""},
		{"[::1]x", ""},
		{"[fe80::1%25eth0]", ""},
		{"[10.0.0.1]", ""},
		{"::1", ""},
		{"a%2eb", ""},
		{"é", ""},
	} {
		got, ref := CanonicalAuthority(tt.in)
		if (ref != nil) != (tt.want == "") || got != tt.want {
			t.Errorf("CanonicalAuthority(%q) = %q, %v; want %q", tt.in, got, ref, tt.want)
		}
	}
}

func FuzzCanonicalAuthority(f *testing.F) {
	for _, s := range []string{"a", "a:80", "[::1]:80", "A.b", "a:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, ref := CanonicalAuthority(in)
		if ref != nil {
			return
		}
		if again, ref := CanonicalAuthority(got); ref != nil || again != got {
			t.Fatalf("canonical(%q) = %q, and of that %q, %v", in, got, again, ref)
		}
		u, err := url.Parse("http://" + got + "/")
		if err != nil || u.Host != got || u.User != nil {
			t.Fatalf("%q is not what a URL takes for an authority: %v", got, err)
		}
	})
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct {
		method, in string
		want       target
		status     int
	}{
		{"GET", "/a?b=c", target{path: "/a", query: "b=c", hasQuery: true}, 0},
		{"GET", "/a?", target{path: "/a", hasQuery: true}, 0},
		{"GET", "/a?x?y", target{path: "/a", query: "x?y", hasQuery: true}, 0},
		{"OPTIONS", "*", target{path: "*"}, 0},
		{"GET", "*", target{}, 400},
		{"GET", "http://Host:80/p", target{scheme: "http", authority: "host:80", path: "/p"}, 0},
		{"GET", "HTTPS://host", target{scheme: "https", authority: "host", path: "/"}, 0},
		{"GET", "http://host?q", target{scheme: "http", authority: "host", path: "/", query: "q", hasQuery: true}, 0},
		{"GET", "ftp://host/", target{}, 400},
		{"GET", "http:http://h/admin", target{}, 400},
		{"GET", "http://user@host/", target{}, 400},
		{"GET", "a:b", target{}, 400},
		{"GET", "/a#b", target{}, 400},
		{"GET", "/a?b#c", target{}, 400},
		{"GET", "/a?\x01", target{}, 400},
		{"GET", "/" + strings.Repeat("a", MaxTargetBytes), target{}, 414},
	} {
		got, ref := parseTarget(tt.method, tt.in)
		status := 0
		if ref != nil {
			status = ref.Status
		}
		if got != tt.want || status != tt.status {
			t.Errorf("parseTarget(%s, %.40q) = %+v, %v; want %+v, %d", tt.method, tt.in, got, ref, tt.want, tt.status)
		}
	}
}

func TestQueryValue(t *testing.T) {
	for _, tt := range []struct {
		query, name, want string
		ok                bool
	}{
		{"a=1&b=2", "b", "2", true},
		{"a=1&a=2", "a", "1", true},
		{"a", "a", "", true},
		{"a=x%20y+z", "a", "x y z", true},
		{"%61=1", "a", "1", true},
		{"A=1", "a", "", false},
		{"a=%zz", "a", "%zz", true},
		{"", "a", "", false},
		{"&&a=1", "a", "1", true},
		{"&&", "", "", false},
		{"a=b=c", "a", "b=c", true},
	} {
		got, ok := QueryValue(tt.query, tt.name)
		if got != tt.want || ok != tt.ok {
			t.Errorf("QueryValue(%q, %q) = %q, %t; want %q, %t", tt.query, tt.name, got, ok, tt.want, tt.ok)
		}
	}
}
