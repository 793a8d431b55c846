package filter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

func compileOne(t *testing.T, f routing.Filter) *Chain {
	t.Helper()
	c, err := Compile([]routing.Filter{f})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func headerOf(lines ...string) wire.Header {
	var h wire.Header
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	return h
}

func textOf(h wire.Header) string {
	var b strings.Builder
	for name, value := range h.All() {
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	return b.String()
}

func TestHeaderChange(t *testing.T) {
	change := &routing.HeaderChange{
		Set:    []routing.Header{{Name: "my-header", Value: "bar"}, {Name: "New", Value: "1"}},
		Add:    []routing.Header{{Name: "Many", Value: "bar,baz"}, {Name: "Fresh", Value: "2"}, {Name: "Set-Cookie", Value: "b=2"}},
		Remove: []string{"GONE", "absent"},
	}
	want := "my-header: bar\nMany: foo,bar,baz\nset-cookie: a=1\nNew: 1\nFresh: 2\nSet-Cookie: b=2\n"
	in := func() wire.Header {
		return headerOf("My-Header: foo", "Many: foo", "gone: 1", "set-cookie: a=1", "Gone: 2", "my-header: again")
	}
	req := &wire.Request{Header: in()}
	run := compileOne(t, routing.Filter{RequestHeaders: change}).Request(req, Input{})
	if got := textOf(req.Header); got != want || run.Answer != nil {
		t.Errorf("request:\n%swant\n%s", got, want)
	}
	req = &wire.Request{}
	run = compileOne(t, routing.Filter{ResponseHeaders: change}).Request(req, Input{})
	resp := &wire.Response{Header: in()}
	run.Response(resp)
	if got := textOf(resp.Header); got != want || req.Header.Len() != 0 {
		t.Errorf("response:\n%swant\n%s", got, want)
	}
}

func TestHostHeader(t *testing.T) {
	req := &wire.Request{Authority: "a"}
	compileOne(t, routing.Filter{RequestHeaders: &routing.HeaderChange{Set: []routing.Header{{Name: "host", Value: "B:80"}}}}).Request(req, Input{})
	if req.Authority != "b:80" || req.Header.Has("Host") {
		t.Errorf("authority %q, header %v", req.Authority, textOf(req.Header))
	}
}

// TestReplacePrefix is the table at HTTPPathModifier.ReplacePrefixMatch, and
// what it does not say. The prefix comes without its trailing slash, as the
// matcher reports it.
func TestReplacePrefix(t *testing.T) {
	for _, tt := range []struct{ path, prefix, replace, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foo/bar", "/", "/xyz", "/xyz/foo/bar"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/foo/bar", "/", "/", "/foo/bar"},
		{"/foo//bar", "/foo", "/x", "/x//bar"},
		{"/foo/bar", "", "/x", "/x"},
	} {
		c, err := newPathChange(&routing.PathChange{Prefix: true, Value: tt.replace})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.of(tt.path, tt.prefix); got != tt.want {
			t.Errorf("%s, %s -> %s: %s, want %s", tt.path, tt.prefix, tt.replace, got, tt.want)
		}
	}
}

// FuzzReplacePrefix: whatever is replaced, a canonical path stays one.
func FuzzReplacePrefix(f *testing.F) {
	f.Add("/foo/bar", "/foo", "/x/")
	f.Fuzz(func(t *testing.T, path, prefix, value string) {
		path, ref := wire.CanonicalPath(path)
		if ref != nil || prefix != "/" && path != prefix && !strings.HasPrefix(path, prefix+"/") {
			return
		}
		c, err := newPathChange(&routing.PathChange{Prefix: true, Value: value})
		if err != nil {
			return
		}
		got := c.of(path, prefix)
		if again, ref := wire.CanonicalPath(got); ref != nil || again != got {
			t.Fatalf("%q, %q -> %q: %q, canonical %q, %v", path, prefix, value, got, again, ref)
		}
	})
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct {
		rewrite routing.Rewrite
		want    string
	}{
		{routing.Rewrite{Hostname: "Other.example"}, "other.example /a/b"},
		{routing.Rewrite{Path: &routing.PathChange{Value: "/x/%79"}}, "echo:80 /x/y"},
		{routing.Rewrite{Hostname: "h", Path: &routing.PathChange{Prefix: true, Value: "/x"}}, "h /x/b"},
	} {
		req := &wire.Request{Authority: "echo:80", Path: "/a/b", Query: "q", HasQuery: true}
		compileOne(t, routing.Filter{Rewrite: &tt.rewrite}).Request(req, Input{Prefix: "/a"})
		if got := req.Authority + " " + req.Path; got != tt.want || req.Query != "q" {
			t.Errorf("%+v: %s, want %s", tt.rewrite, got, tt.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, tt := range []struct {
		name     string
		redirect routing.Redirect
		port     uint16
		want     string
	}{
		{"host", routing.Redirect{Hostname: "example.org"}, 80, "http://example.org/a/b?q=1"},
		{"empty scheme: the listener's port", routing.Redirect{Hostname: "example.org"}, 8080, "http://example.org:8080/a/b?q=1"},
		{"scheme with a port of its own", routing.Redirect{Scheme: "https"}, 8080, "https://echo/a/b?q=1"},
		{"scheme http", routing.Redirect{Scheme: "http"}, 8080, "http://echo/a/b?q=1"},
		{"port", routing.Redirect{Port: 8083}, 80, "http://echo:8083/a/b?q=1"},
		{"port 80 of http", routing.Redirect{Port: 80}, 8080, "http://echo/a/b?q=1"},
		{"port 443 of https", routing.Redirect{Scheme: "https", Port: 443}, 80, "https://echo/a/b?q=1"},
		{"port 443 of http", routing.Redirect{Port: 443}, 80, "http://echo:443/a/b?q=1"},
		{"port 80 of https", routing.Redirect{Scheme: "https", Port: 80}, 80, "https://echo:80/a/b?q=1"},
		{"whole path", routing.Redirect{Path: &routing.PathChange{Value: "/new"}}, 80, "http://echo/new?q=1"},
		{"prefix", routing.Redirect{Path: &routing.PathChange{Prefix: true, Value: "/new"}}, 80, "http://echo/new/b?q=1"},
	} {
		tt.redirect.Code = 302
		req := &wire.Request{Scheme: "http", Authority: "echo:9999", Path: "/a/b", Query: "q=1", HasQuery: true}
		run := compileOne(t, routing.Filter{Redirect: &tt.redirect}).Request(req, Input{Prefix: "/a", Port: tt.port})
		if run.Answer == nil || run.Answer.Status != 302 || run.Reason != ReasonRedirect {
			t.Errorf("%s: %+v", tt.name, run)
			continue
		}
		if got := run.Answer.Header.Get("Location"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestInvalid(t *testing.T) {
	c := compileOne(t, routing.Filter{Invalid: "no such extension", RequestHeaders: &routing.HeaderChange{}})
	if run := c.Request(&wire.Request{}, Input{}); run.Answer == nil || run.Answer.Status != 500 || run.Reason != ReasonInvalid {
		t.Errorf("%+v", run)
	}
	for _, f := range []routing.Filter{
		{},
		{Redirect: &routing.Redirect{Code: 200}},
		{Redirect: &routing.Redirect{Code: 302, Hostname: "a/b"}},
		{Rewrite: &routing.Rewrite{Path: &routing.PathChange{Value: "/a#b"}}},
		{RequestHeaders: &routing.HeaderChange{Set: []routing.Header{{Name: "a b"}}}},
		{ResponseHeaders: &routing.HeaderChange{Add: []routing.Header{{Name: "a", Value: "x\r\ny"}}}},
	} {
		if _, err := Compile([]routing.Filter{f}); err == nil {
			t.Errorf("%+v compiles", f)
		}
	}
}

func TestChainOrder(t *testing.T) {
	c, err := Compile([]routing.Filter{
		{RequestHeaders: &routing.HeaderChange{Set: []routing.Header{{Name: "a", Value: "1"}}}},
		{Mirror: &routing.Mirror{Port: 1}},
		{RequestHeaders: &routing.HeaderChange{Add: []routing.Header{{Name: "a", Value: "2"}}}},
		{Redirect: &routing.Redirect{Code: 301}},
		{RequestHeaders: &routing.HeaderChange{Set: []routing.Header{{Name: "never", Value: "1"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	req := &wire.Request{}
	run := c.Request(req, Input{})
	if got := textOf(req.Header); got != "a: 1,2\n" || run.Answer == nil || len(c.Mirrors()) != 1 {
		t.Errorf("header %q, answer %v, mirrors %d", got, run.Answer, len(c.Mirrors()))
	}
	var none *Chain
	if run := none.Request(req, Input{}); run.Answer != nil || none.Mirrors() != nil {
		t.Error("an empty chain does something")
	}
}

func TestCORS(t *testing.T) {
	const preflight = "OPTIONS"
	for _, tt := range []struct {
		name     string
		cors     routing.CORS
		method   string
		header   wire.Header
		answered bool
		want     string
	}{
		{"preflight from an allowed origin",
			routing.CORS{AllowOrigins: []string{"https://a.example"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"X-A", "X-B"}, MaxAge: 5},
			preflight, headerOf("Origin: https://a.example", "Access-Control-Request-Method: PUT"), true,
			"Access-Control-Allow-Origin: https://a.example\nAccess-Control-Allow-Methods: GET, PUT\nAccess-Control-Allow-Headers: X-A, X-B\nAccess-Control-Max-Age: 5\nVary: Origin\n"},
		{"preflight from another origin",
			routing.CORS{AllowOrigins: []string{"https://a.example"}, AllowMethods: []string{"GET"}},
			preflight, headerOf("Origin: https://b.example", "Access-Control-Request-Method: PUT"), true, "Vary: Origin\n"},
		{"wildcards",
			routing.CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, MaxAge: 7},
			preflight, headerOf("Origin: https://b.example", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-y"), true,
			"Access-Control-Allow-Origin: *\nAccess-Control-Allow-Methods: *\nAccess-Control-Allow-Headers: *\nAccess-Control-Max-Age: 7\n"},
		{"wildcards with credentials are echoed",
			routing.CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, AllowCredentials: true},
			preflight, headerOf("Origin: https://b.example", "Access-Control-Request-Method: PUT"), true,
			"Access-Control-Allow-Origin: https://b.example\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: PUT\nAccess-Control-Max-Age: 0\nVary: Origin\n"},
		{"the actual request",
			routing.CORS{AllowOrigins: []string{"https://*.example"}, ExposeHeaders: []string{"X-C"}},
			"GET", headerOf("Origin: https://x.y.example"), false,
			"Access-Control-Allow-Origin: https://x.y.example\nAccess-Control-Expose-Headers: X-C\nVary: Origin\n"},
		{"what the backend says does not count",
			routing.CORS{AllowOrigins: []string{"https://a.example"}},
			"GET", headerOf("Origin: https://b.example"), false, "Vary: Origin\n"},
		{"exposed wildcard with credentials",
			routing.CORS{AllowOrigins: []string{"*"}, ExposeHeaders: []string{"*"}, AllowCredentials: true},
			"GET", headerOf("Origin: https://b.example"), false,
			"Access-Control-Allow-Origin: https://b.example\nAccess-Control-Allow-Credentials: true\nVary: Origin\n"},
		{"OPTIONS that is no preflight goes on",
			routing.CORS{AllowOrigins: []string{"*"}}, preflight, headerOf("Origin: https://b.example"), false,
			"Access-Control-Allow-Origin: *\n"},
		{"default ports are ports",
			routing.CORS{AllowOrigins: []string{"https://a.example"}}, "GET", headerOf("Origin: https://a.example:443"), false,
			"Access-Control-Allow-Origin: https://a.example:443\nVary: Origin\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run := compileOne(t, routing.Filter{CORS: &tt.cors}).Request(&wire.Request{Method: tt.method, Header: tt.header}, Input{})
			if (run.Answer != nil) != tt.answered {
				t.Fatalf("answer %v", run.Answer)
			}
			resp := run.Answer
			if resp == nil {
				resp = &wire.Response{Header: headerOf("Access-Control-Allow-Origin: https://evil.example")}
			}
			run.Response(resp)
			if got := textOf(resp.Header); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		allow, origin string
		want          bool
	}{
		{"https://a.b", "https://a.b", true},
		{"https://a.b", "http://a.b", false},
		{"https://a.b", "https://a.b:8443", false},
		{"https://a.b:8443", "https://a.b:8443", true},
		{"https://*.b", "https://b", false},
		{"https://*.b", "https://evilb", false},
		{"https://*.b", "https://x.b", true},
		{"https://*", "https://anything", true},
		{"https://*", "http://anything", false},
		{"http://*.b:81", "http://x.b:81", true},
	} {
		s := newCORS(&routing.CORS{AllowOrigins: []string{tt.allow}}).(*cors)
		if got := s.allows(tt.origin); got != tt.want {
			t.Errorf("%s allows %s: %t", tt.allow, tt.origin, got)
		}
	}
}
