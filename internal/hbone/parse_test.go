package hbone

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseAuthority(t *testing.T) {
	good := map[string]Authority{
		"10.0.0.1:80":                   {Addr: netip.MustParseAddr("10.0.0.1"), Port: 80},
		"[2001:db8::1]:65535":           {Addr: netip.MustParseAddr("2001:db8::1"), Port: 65535},
		"Cart.shop.svc.cluster.local:1": {Host: "cart.shop.svc.cluster.local", Port: 1},
		"a_b:1":                         {Host: "a_b", Port: 1},
		"1a.2b:99":                      {Host: "1a.2b", Port: 99},
	}
	for s, want := range good {
		if got, err := ParseAuthority(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", s, got, err, want)
		}
	}
	bad := []string{"", ":", ":80", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:080", "10.0.0.1:65536", "10.0.0.1:+80", "10.0.0.1:80/",
		"user@10.0.0.1:80", "http://10.0.0.1:80", "[10.0.0.1]:80", "2001:db8::1:80", "[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80", "[::1:80",
		"10.0.0.01:80", "10.1:80", "1.2.3:80", "0x7f000001:80x", "256.0.0.1:80", "a..b:80", "-a:80", "a-:80", "a b:80", "a\x00b:80", "ä:80",
		strings.Repeat("a", 64) + ":80", strings.Repeat("a.", 130) + "a:80"}
	for _, s := range bad {
		if got, err := ParseAuthority(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:443", "web.shop:8080", "user@h:1", "::1:80", "[::ffff:1.2.3.4]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s)
		if err != nil {
			return
		}
		if a.Port == 0 || (a.Host == "") == !a.Addr.IsValid() {
			t.Fatalf("%q: %+v", s, a)
		}
		if again, err := ParseAuthority(a.String()); err != nil || again != a {
			t.Fatalf("%q: %+v, again %+v, %v", s, a, again, err)
		}
	})
}

func TestParseForwarded(t *testing.T) {
	good := map[string]string{
		`for="10.0.0.1:4711"`:                      "10.0.0.1:4711",
		`for="[2001:db8::1]:80";host=web.shop.svc`: "[2001:db8::1]:80",
		`host="x:1";For=10.0.0.1;proto=https`:      "10.0.0.1:0",
		`by=unknown;for="[::1]"`:                   "[::1]:0",
	}
	for s, want := range good {
		if got, err := ParseForwarded(s); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "for", "for=", "for=;", `for="10.0.0.1:1`, `for="10.0.0.1:1";`, `for="10.0.0.1:1", for="10.0.0.2:1"`,
		`for=10.0.0.1:1`, `for=unknown`, `for=_x`, `for="web.shop:1"`, `host=a`, `for=10.0.0.1;for=10.0.0.2`, `for="a\"b"`, ` for=10.0.0.1`} {
		if got, err := ParseForwarded(s); err == nil {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func FuzzParseForwarded(f *testing.F) {
	for _, s := range []string{`for="10.0.0.1:4711"`, `for="[::1]:1";host=a`, `for=1.2.3.4;by="x"`, `for="`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseForwarded(s)
		if err != nil {
			return
		}
		if !a.Addr().IsValid() || a.Addr().Zone() != "" || a.Addr().Is4In6() {
			t.Fatalf("%q: %v", s, a)
		}
		if a.Port() == 0 {
			return
		}
		if again, err := ParseForwarded(FormatForwarded(a)); err != nil || again != a {
			t.Fatalf("%q: %v, again %v, %v", s, a, again, err)
		}
	})
}
