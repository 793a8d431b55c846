package redirect

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var rulesets = map[string]Ruleset{"pod": Pod(), "pod-draining": DrainingPod(), "node": Node()}

func TestText(t *testing.T) {
	for name, r := range rulesets {
		file := filepath.Join("testdata", name+".nft")
		got := r.String()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs (rewrite with -update):\n%s", file, got)
		}
	}
}

func TestTracePod(t *testing.T) {
	tests := []struct {
		name     string
		src, dst string
		edit     func(p *Packet)
		hooks    []Hook
		want     Outcome // without Rule
	}{
		{"pod to a service", "10.1.0.5:4000", "10.96.0.1:80", out("eth0"), send, Outcome{RedirectedTo: 15001}},
		{"pod to a service, IPv6", "[fd00::5]:4000", "[fd00:96::1]:80", out("eth0"), send, Outcome{RedirectedTo: 15001}},
		{"pod to DNS by TCP", "10.1.0.5:4000", "10.96.0.10:53", out("eth0"), send, Outcome{RedirectedTo: 15001}},
		{"pod to DNS by UDP", "10.1.0.5:4000", "10.96.0.10:53", udp, send, Outcome{}},
		{"pod to itself", "10.1.0.5:4000", "10.1.0.5:80", out("lo"), send, Outcome{}},
		{"loopback", "127.0.0.1:4000", "127.0.0.1:80", out("lo"), send, Outcome{}},
		{"pod, connection older than the rules", "10.1.0.5:4000", "10.96.0.1:80", noSYN("eth0"), send, Outcome{}},
		{"pod, connection that was redirected or not before", "10.1.0.5:4000", "10.96.0.1:80", tracked("eth0"), send, Outcome{}},
		{"ztunnel to a peer", "10.1.0.5:4000", "10.1.0.9:15008", marked("eth0"), send, Outcome{}},
		{"ztunnel with foreign bits in the mark", "10.1.0.5:4000", "10.1.0.9:15008", foreign("eth0"), send, Outcome{}},
		{"pod to the probe address", "10.1.0.5:80", "169.254.7.127:4000", out("eth0"), send, Outcome{}},
		{"peer to the app", "10.1.0.9:4000", "10.1.0.5:80", local, arrive, Outcome{RedirectedTo: 15006}},
		{"peer to the app, IPv6", "[fd00::9]:4000", "[fd00::5]:80", local, arrive, Outcome{RedirectedTo: 15006}},
		{"peer to the tunnel port", "10.1.0.9:4000", "10.1.0.5:15008", local, arrive, Outcome{}},
		{"peer to a capture port", "10.1.0.9:4000", "10.1.0.5:15001", local, arrive, Outcome{RedirectedTo: 15006}},
		{"probe", "169.254.7.127:4000", "10.1.0.5:80", local, arrive, Outcome{}},
		{"probe, IPv6", "[fd16:9254:7127:1337:ffff:ffff:ffff:ffff]:4000", "[fd00::5]:80", local, arrive, Outcome{}},
		{"forwarded by the pod", "172.17.0.2:4000", "10.96.0.1:80", func(*Packet) {}, arrive, Outcome{}},
		{"peer, connection older than the rules", "10.1.0.9:4000", "10.1.0.5:80", func(p *Packet) { p.SYN, p.DestinationLocal = false, true }, arrive, Outcome{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := packet(tt.src, tt.dst, tt.edit)
			got := Pod().Trace(p, tt.hooks...)
			got.Rule = ""
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			p = packet(tt.src, tt.dst, tt.edit)
			if got := DrainingPod().Trace(p, tt.hooks...); got.RedirectedTo != 0 {
				t.Errorf("redirected while draining: %+v", got)
			}
		})
	}
}

// TestTraceSpoofed follows a connection that ztunnel opens to the application
// with the client's address: request by loopback, answer.
func TestTraceSpoofed(t *testing.T) {
	for _, rules := range []Ruleset{Pod(), DrainingPod()} {
		syn := packet("10.1.0.9:4000", "10.1.0.5:80", marked("lo"))
		syn.ConnMark = 0x7000
		if o := rules.Trace(syn, Output, Postrouting); o.RedirectedTo != 0 || o.Source.IsValid() {
			t.Fatalf("ztunnel's connection was changed: %+v", o)
		}
		syn.Tracked, syn.DestinationLocal = true, true
		rules.Trace(syn, Prerouting)
		if syn.ConnMark != 0x7111 {
			t.Fatalf("connection mark %#x", syn.ConnMark)
		}
		answer := packet("10.1.0.5:80", "10.1.0.9:4000", tracked("eth0"))
		answer.ConnMark, answer.Mark = syn.ConnMark, 0x6000
		rules.Trace(answer, Output)
		if answer.Mark != 0x6111 {
			t.Fatalf("packet mark of the answer %#x", answer.Mark)
		}
	}
}

func TestTraceNode(t *testing.T) {
	root, other := uint32(0), uint32(1000)
	tests := []struct {
		name string
		dst  string
		user *uint32
		want string
	}{
		{"kubelet to an enrolled pod", "10.1.0.5:80", &root, "169.254.7.127"},
		{"kubelet to an enrolled pod, IPv6", "[fd00::5]:80", &root, "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"},
		{"kubelet to another pod", "10.1.0.6:80", &root, ""},
		{"an ordinary user", "10.1.0.5:80", &other, ""},
		{"forwarded", "10.1.0.5:80", nil, ""},
	}
	for _, tt := range tests {
		p := packet("192.0.2.1:4000", tt.dst, func(p *Packet) {
			p.User = tt.user
			p.Sets = map[string]map[netip.Addr]bool{
				ProbedSet4: {netip.MustParseAddr("10.1.0.5"): true},
				ProbedSet6: {netip.MustParseAddr("fd00::5"): true},
			}
		})
		var want netip.Addr
		if tt.want != "" {
			want = netip.MustParseAddr(tt.want)
		}
		if got := Node().Trace(p, Output, Postrouting).Source; got != want {
			t.Errorf("%s: source becomes %v, want %v", tt.name, got, want)
		}
	}
}

var (
	send   = []Hook{Output, Postrouting}
	arrive = []Hook{Prerouting}
)

func packet(src, dst string, edit func(p *Packet)) *Packet {
	p := &Packet{Protocol: TCP, Source: netip.MustParseAddrPort(src), Destination: netip.MustParseAddrPort(dst), SYN: true}
	edit(p)
	return p
}

func out(dev string) func(p *Packet)   { return func(p *Packet) { p.Output = dev } }
func noSYN(dev string) func(p *Packet) { return func(p *Packet) { p.Output, p.SYN = dev, false } }
func tracked(dev string) func(p *Packet) {
	return func(p *Packet) { p.Output, p.SYN, p.Tracked = dev, false, true }
}
func marked(dev string) func(p *Packet) { return func(p *Packet) { p.Output, p.Mark = dev, Mark } }
func foreign(dev string) func(p *Packet) {
	return func(p *Packet) { p.Output, p.Mark = dev, 0xabc000|Mark }
}
func udp(p *Packet)   { p.Output, p.Protocol, p.SYN = "eth0", UDP, false }
func local(p *Packet) { p.DestinationLocal = true }
