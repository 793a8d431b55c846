package match

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
)

// A rule in short: "[host] kind:path [METHOD] [h:name=value] [q:name=value]";
// several matches are separated by "|".
func parseRule(t testing.TB, s string) routing.Rule {
	t.Helper()
	var r routing.Rule
	for alternative := range strings.SplitSeq(s, "|") {
		m := routing.Match{}
		for f := range strings.FieldsSeq(alternative) {
			kind, value, ok := strings.Cut(f, ":")
			name, eq, _ := strings.Cut(value, "=")
			switch {
			case !ok:
				m.Method = f
			case kind == "host":
				r.Hostnames = append(r.Hostnames, value)
			case kind == "prefix":
				m.Path = routing.PathMatch{Kind: routing.PathPrefix, Value: value}
			case kind == "exact":
				m.Path = routing.PathMatch{Kind: routing.PathExact, Value: value}
			case kind == "regex":
				m.Path = routing.PathMatch{Kind: routing.PathRegex, Value: value}
			case kind == "h":
				m.Headers = append(m.Headers, routing.ValueMatch{Name: name, Value: eq})
			case kind == "hr":
				m.Headers = append(m.Headers, routing.ValueMatch{Kind: routing.ValueRegex, Name: name, Value: eq})
			case kind == "q":
				m.Query = append(m.Query, routing.ValueMatch{Name: name, Value: eq})
			default:
				t.Fatalf("rule %q: %q", s, f)
			}
		}
		r.Matches = append(r.Matches, m)
	}
	return r
}

func compile(t testing.TB, rules ...string) *Matcher {
	t.Helper()
	var list []routing.Rule
	for _, s := range rules {
		list = append(list, parseRule(t, s))
	}
	m, err := Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// request in short: "METHOD [//authority] /path?query [name=value ...]".
func parseRequest(s string) *wire.Request {
	r := &wire.Request{Authority: "echo"}
	for i, f := range strings.Fields(s) {
		switch {
		case i == 0:
			r.Method = f
		case strings.HasPrefix(f, "@"):
			r.Authority = f[1:]
		case strings.HasPrefix(f, "/") || f == "*":
			r.Path, r.Query, r.HasQuery = strings.Cut(f, "?")
		default:
			name, value, _ := strings.Cut(f, "=")
			r.Header.Add(name, value)
		}
	}
	return r
}

func TestPrecedence(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules []string
		want  map[string]int // request -> rule, -1 for none
	}{
		{`"Exact" path match, then "Prefix" path match with largest number of characters`,
			[]string{"prefix:/", "prefix:/a", "prefix:/a/b", "exact:/a/b", "exact:/a"},
			map[string]int{"GET /a/b": 3, "GET /a": 4, "GET /a/": 1, "GET /a/b/": 2, "GET /a/b/c": 2, "GET /a/c": 1, "GET /ab": 0, "GET /": 0}},
		{`an exact path match on "/abc" will only match requests to "/abc", NOT "/abc/", "/Abc", or "/abcd"`,
			[]string{"exact:/abc"},
			map[string]int{"GET /abc": 0, "GET /abc/": -1, "GET /Abc": -1, "GET /abcd": -1}},
		{`the paths "/abc", "/abc/", and "/abc/def" would all match the prefix "/abc", but the path "/abcd" would not`,
			[]string{"prefix:/abc"},
			map[string]int{"GET /abc": 0, "GET /abc/": 0, "GET /abc/def": 0, "GET /abcd": -1, "GET /ABC": -1, "GET /": -1}},
		{`when specified, a trailing "/" is ignored`,
			[]string{"prefix:/abc/"},
			map[string]int{"GET /abc": 0, "GET /abc/": 0, "GET /abcd": -1}},
		{`method match`,
			[]string{"prefix:/ h:a=1 h:b=2", "prefix:/ GET"},
			map[string]int{"GET / a=1 b=2": 1, "POST / a=1 b=2": 0, "POST /": -1}},
		{`largest number of header matches`,
			[]string{"prefix:/ q:x=1 q:y=2", "prefix:/ h:a=1", "prefix:/ h:a=1 h:b=2"},
			map[string]int{"GET /?x=1&y=2 a=1 b=2": 2, "GET /?x=1&y=2 a=1": 1, "GET /?x=1&y=2": 0}},
		{`largest number of query param matches`,
			[]string{"prefix:/", "prefix:/ q:x=1", "prefix:/ q:x=1 q:y=2"},
			map[string]int{"GET /?y=2&x=1": 2, "GET /?x=1": 1, "GET /?x=2": 0, "GET /": 0}},
		{`FIRST matching rule (in list order)`,
			[]string{"prefix:/a", "prefix:/a", "prefix:/a/"},
			map[string]int{"GET /a": 0}},
		{`a longer path wins over every other criterion`,
			[]string{"prefix:/ GET h:a=1 q:x=1", "prefix:/a"},
			map[string]int{"GET /a?x=1 a=1": 1, "GET /b?x=1 a=1": 0}},
		{`a better path whose other conditions fail does not hide the next`,
			[]string{"exact:/a h:v=1", "prefix:/a h:v=2", "prefix:/"},
			map[string]int{"GET /a v=1": 0, "GET /a v=2": 1, "GET /a v=3": 2}},
		{`expressions come after prefixes, but before "/"`,
			[]string{"prefix:/", "regex:/[a-z]+/x", "prefix:/abc"},
			map[string]int{"GET /abc/x": 2, "GET /xyz/x": 1, "GET /xyz/x/y": 0, "GET /1/x": 0}},
		{`alternatives of a rule`,
			[]string{"exact:/a|exact:/b GET", "prefix:/"},
			map[string]int{"GET /a": 0, "GET /b": 0, "POST /b": 1}},
		{`header names do not mind case, values do; only the first entry of a name counts`,
			[]string{"prefix:/ h:version=two h:Version=three"},
			map[string]int{"GET / Version=two": 0, "GET / VERSION=Two": -1, "GET / version=three": -1, "GET /": -1}},
		{`a repeated header is one value`,
			[]string{"prefix:/ hr:v=a,.b"},
			map[string]int{"GET / v=a V=b": 0, "GET / v=b v=a": -1, "GET / v=a": -1}},
		{`match against the first value of the param; names are exact`,
			[]string{"prefix:/ q:a=1 q:a=2"},
			map[string]int{"GET /?a=1&a=2": 0, "GET /?a=2&a=1": -1, "GET /?A=1": -1, "GET /?%61=1": 0}},
		{`paths are compared in canonical form`,
			[]string{"prefix:/%61b/c%2fd"},
			map[string]int{"GET /ab/c%2Fd/e": 0, "GET /ab/c/d": -1}},
		{`empty segments are segments`,
			[]string{"prefix:/a/b", "prefix:/a"},
			map[string]int{"GET /a//b": 1, "GET //a": -1}},
		{`OPTIONS * is under no prefix but "/"`,
			[]string{"prefix:/a", "prefix:/ OPTIONS"},
			map[string]int{"OPTIONS *": 1}},
		{`host names: exact, longest wildcard, none`,
			[]string{"prefix:/", "host:*.example.com prefix:/", "host:a.example.com prefix:/", "host:*.b.example.com prefix:/x"},
			map[string]int{"GET @a.example.com:80 /": 2, "GET @c.example.com /": 1, "GET @x.y.example.com /": 1, "GET @example.com /": 0,
				"GET @c.b.example.com /x": 3, "GET @c.b.example.com /y": 1, "GET @other /": 0}},
		{`host name before path`,
			[]string{"prefix:/long/path", "host:a prefix:/"},
			map[string]int{"GET @a /long/path": 1, "GET @b /long/path": 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := compile(t, tt.rules...)
			for req, want := range tt.want {
				r, ok := m.Find(parseRequest(req))
				if got := r.Rule; !ok && want != -1 || ok && got != want {
					t.Errorf("%s: rule %d, %t; want %d", req, got, ok, want)
				}
			}
		})
	}
}

func TestResult(t *testing.T) {
	m := compile(t, "prefix:/", "prefix:/a/", "exact:/x", "regex:/r.*")
	for req, want := range map[string]Result{
		"GET /q":  {Rule: 0, Prefix: "/", Route: "/*"},
		"GET /a":  {Rule: 1, Prefix: "/a", Route: "/a/*"},
		"GET /x":  {Rule: 2, Route: "/x"},
		"GET /rr": {Rule: 3, Route: "/r.*"},
	} {
		if got, ok := m.Find(parseRequest(req)); !ok || got != want {
			t.Errorf("%s: %+v, want %+v", req, got, want)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, s := range []string{"regex:(", "prefix:/%zz", "prefix:/ hr:a=[", "exact:no-slash"} {
		if _, err := Compile([]routing.Rule{parseRule(t, s)}); err == nil {
			t.Errorf("%q compiles", s)
		}
	}
}

// reference finds the best match by comparing all of them.
func reference(rules []routing.Rule, req *wire.Request) int {
	best, bestRank := -1, []int(nil)
	for i, r := range rules {
		for _, m := range r.Matches {
			rank, ok := rankOf(m, req)
			if !ok {
				continue
			}
			host, ok := hostRank(r.Hostnames, req.Authority)
			if !ok {
				continue
			}
			rank = append(host, rank...)
			if best < 0 || less(bestRank, rank) {
				best, bestRank = i, rank
			}
		}
	}
	return best
}

func less(a, b []int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

func hostRank(names []string, authority string) ([]int, bool) {
	if len(names) == 0 {
		return []int{0, 0}, true
	}
	best, found := []int{0, 0}, false
	for _, n := range names {
		rank := []int{2, 0}
		if suffix, wild := strings.CutPrefix(n, "*"); wild {
			if !strings.HasSuffix(authority, suffix) || len(authority) == len(suffix) {
				continue
			}
			rank = []int{1, len(suffix)}
		} else if n != authority {
			continue
		}
		if !found || less(best, rank) {
			best, found = rank, true
		}
	}
	return best, found
}

func rankOf(m routing.Match, req *wire.Request) ([]int, bool) {
	var kind, length int
	switch m.Path.Kind {
	case routing.PathExact:
		if req.Path != m.Path.Value {
			return nil, false
		}
		kind = 4
	case routing.PathRegex:
		if !regexp.MustCompile("^(?:" + m.Path.Value + ")$").MatchString(req.Path) {
			return nil, false
		}
		kind = 2
	default:
		p := strings.TrimSuffix(m.Path.Value, "/")
		if req.Path != p && !strings.HasPrefix(req.Path, p+"/") {
			return nil, false
		}
		kind, length = 3, len(p)
		if p == "" {
			kind = 1
		}
	}
	method := 0
	if m.Method != "" {
		if m.Method != req.Method {
			return nil, false
		}
		method = 1
	}
	seen := map[string]bool{}
	for _, h := range m.Headers {
		if seen[h.Name] {
			continue
		}
		seen[h.Name] = true
		if v, ok := req.Header.Combined(h.Name); !ok || v != h.Value {
			return nil, false
		}
	}
	params := map[string]bool{}
	for _, q := range m.Query {
		if params[q.Name] {
			continue
		}
		params[q.Name] = true
		if v, ok := wire.QueryValue(req.Query, q.Name); !ok || v != q.Value {
			return nil, false
		}
	}
	return []int{kind, length, method, len(seen), len(params)}, true
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomRules(r *rand.Rand, n int) []routing.Rule {
	rules := make([]routing.Rule, n)
	for i := range rules {
		for range r.IntN(3) {
			rules[i].Hostnames = append(rules[i].Hostnames, pick(r, "a.x", "b.x", "*.x", "*.b.x"))
		}
		for range 1 + r.IntN(2) {
			m := routing.Match{Path: routing.PathMatch{Kind: routing.PathKind(r.IntN(3)), Value: randomPath(r)}}
			if m.Path.Kind == routing.PathRegex {
				m.Path.Value = pick(r, "/a.*", "/[ab]/.*", ".*", "/a/b")
			}
			m.Method = pick(r, "", "", "GET", "POST")
			for range r.IntN(3) {
				m.Headers = append(m.Headers, routing.ValueMatch{Name: pick(r, "x", "y"), Value: pick(r, "1", "2")})
			}
			for range r.IntN(3) {
				m.Query = append(m.Query, routing.ValueMatch{Name: pick(r, "p", "q"), Value: pick(r, "1", "2")})
			}
			rules[i].Matches = append(rules[i].Matches, m)
		}
	}
	return rules
}

func randomPath(r *rand.Rand) string {
	p := ""
	for range r.IntN(4) {
		p += "/" + pick(r, "a", "b", "ab", "")
	}
	if p == "" {
		return "/"
	}
	return p
}

func randomRequest(r *rand.Rand) *wire.Request {
	s := pick(r, "GET", "POST") + " @" + pick(r, "a.x", "c.x", "q.b.x", "other") + " " + randomPath(r)
	s += pick(r, "", "?p=1", "?p=2&q=1", "?q=2&q=1&p=1") + pick(r, "", " x=1", " x=1 y=2", " X=2 x=1")
	return parseRequest(s)
}

// TestAgainstReference: the compiled matcher chooses what comparing all matches
// chooses, on random tables.
func TestAgainstReference(t *testing.T) {
	for seed := range uint64(400) {
		check(t, seed)
	}
}

func check(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	rules := randomRules(r, 1+r.IntN(20))
	m, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		req := randomRequest(r)
		got, ok := m.Find(req)
		if !ok {
			got.Rule = -1
		}
		if want := reference(rules, req); got.Rule != want {
			t.Fatalf("seed %d: %s %s%s?%s %v: rule %d, want %d of\n%+v", seed, req.Method, req.Authority, req.Path, req.Query, req.Header, got.Rule, want, rules)
		}
	}
}

func FuzzAgainstReference(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(check)
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{1, 100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var rules []routing.Rule
			for i := range n {
				kind := routing.PathPrefix
				if i%2 == 1 {
					kind = routing.PathExact
				}
				rules = append(rules, routing.Rule{Matches: []routing.Match{{Path: routing.PathMatch{Kind: kind, Value: fmt.Sprintf("/api/v%d/things/%d", i%7, i)}}}})
			}
			m, err := Compile(rules)
			if err != nil {
				b.Fatal(err)
			}
			req := parseRequest(fmt.Sprintf("GET /api/v%d/things/%d", (n-1)%7, n-1))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := m.Find(req); !ok {
					b.Fatal("no match")
				}
			}
		})
	}
}
