package ztunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func idOf(ns, sa string) spiffeid.ID {
	return spiffeid.RequireFromSegments(td, "ns", ns, "sa", sa)
}

// workload makes a pod whose service account has its name without the number.
func workload(ns, name string, tunnel mesh.Tunnel, addrs ...string) *mesh.Workload {
	wl := &mesh.Workload{ID: mesh.WorkloadID(ns + "/" + name), Namespace: ns, Name: name,
		ServiceAccount: strings.TrimRight(name, "0123456789-"), Tunnel: tunnel, App: "app", Version: "v1"}
	wl.Identity = idOf(ns, wl.ServiceAccount)
	for _, a := range addrs {
		wl.Addresses = append(wl.Addresses, netip.MustParseAddr(a))
	}
	return wl
}

func slice(ns, svc string, ports map[string]uint16, endpoints ...mesh.Endpoint) *mesh.EndpointSlice {
	s := &mesh.EndpointSlice{Key: mesh.SliceKey{Namespace: ns, Name: fmt.Sprint(svc, "-", len(endpoints), endpoints[0].Address.Is4())},
		Service: mesh.ServiceKey{Namespace: ns, Name: svc}, Endpoints: endpoints}
	for name, number := range ports {
		s.Ports = append(s.Ports, mesh.EndpointPort{Name: name, Port: number})
	}
	return s
}

func ready(wl *mesh.Workload, i int) mesh.Endpoint {
	return mesh.Endpoint{Address: wl.Addresses[i], Workload: wl.ID, Ready: true, Serving: true}
}

func service(ns, name, vip string, ports ...mesh.ServicePort) *mesh.Service {
	return &mesh.Service{Key: mesh.ServiceKey{Namespace: ns, Name: name}, Hostname: name + "." + ns + ".svc.cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr(vip)}, Ports: ports}
}

// testWorld: namespace shop with web (the client), three pods of cart of which
// one is outside the mesh, and a waypoint; namespace bank with a Service bound
// to its own waypoint, and for clients of shop to shop's.
func testWorld() *mesh.World {
	web := workload("shop", "web-1", mesh.TunnelHBONE, "10.1.0.1", "fd00::1")
	cart1 := workload("shop", "cart-1", mesh.TunnelHBONE, "10.1.0.2", "fd00::2")
	cart2 := workload("shop", "cart-2", mesh.TunnelHBONE, "10.1.0.3")
	cart3 := workload("shop", "cart-3", mesh.TunnelNone, "10.1.0.4")
	wp := workload("shop", "waypoint", mesh.TunnelHBONE, "10.1.0.9")
	wp.Gateway = mesh.ProxyKey{Namespace: "shop", Name: "waypoint"}
	anonymous := workload("shop", "anonymous", mesh.TunnelHBONE, "10.1.0.7")
	anonymous.Identity = spiffeid.ID{}

	http := mesh.ServicePort{Name: "http", Port: 80}
	ports := map[string]uint16{"http": 8080}
	cart := service("shop", "cart", "10.96.0.1", http, mesh.ServicePort{Name: "loop", Port: 81}, mesh.ServicePort{Name: "none", Port: 82})
	self := service("shop", "web", "10.96.0.2", http)
	account := service("bank", "account", "10.96.0.3", http, mesh.ServicePort{Name: "tcp", Port: 90})
	account.Waypoints = []mesh.WaypointBinding{
		{Ports: []uint16{80}, Waypoint: mesh.ProxyKey{Namespace: "bank", Name: "gone"}},
		{ClientNamespace: "shop", Ports: []uint16{80}, Waypoint: mesh.ProxyKey{Namespace: "shop", Name: "waypoint"}},
	}
	empty := service("shop", "empty", "10.96.0.4", http)
	manual := service("shop", "manual", "10.96.0.5", http)
	dual := service("shop", "dual", "10.96.0.6", http)
	dual.Addresses = append(dual.Addresses, netip.MustParseAddr("fd96::6"))
	waypoint := service("shop", "waypoint", "10.96.0.9", mesh.ServicePort{Name: "hbone", Port: mesh.PortHBONE})
	unready := ready(cart2, 0)
	unready.Ready = false
	return (&mesh.World{}).Apply(mesh.Update{
		Workloads: []*mesh.Workload{web, cart1, cart2, cart3, wp, anonymous},
		Services:  []*mesh.Service{cart, self, account, empty, manual, dual, waypoint},
		Slices: []*mesh.EndpointSlice{
			slice("shop", "cart", map[string]uint16{"http": 8080, "loop": mesh.PortPlaintext}, ready(cart1, 0), ready(cart2, 0), ready(cart3, 0)),
			slice("shop", "web", ports, ready(web, 0)),
			slice("bank", "account", map[string]uint16{"http": 8080, "tcp": 9090}, ready(cart1, 0)),
			slice("shop", "empty", map[string]uint16{"other": 1}, unready),
			slice("shop", "manual", ports, mesh.Endpoint{Address: netip.MustParseAddr("192.0.2.7"), Ready: true}),
			slice("shop", "dual", ports, ready(cart1, 0)),
			slice("shop", "dual", ports, ready(cart1, 1)),
			slice("shop", "waypoint", map[string]uint16{"hbone": mesh.PortHBONE}, ready(wp, 0)),
		},
	})
}

func TestDecide(t *testing.T) {
	w := testWorld()
	for _, tc := range []struct {
		name   string
		dst    string
		client string // namespace, default shop
		choose []int  // answers of chance; default 0
		want   string
	}{
		{name: "unknown address", dst: "203.0.113.1:443", want: "passthrough TCP 203.0.113.1:443"},
		{name: "unknown address in IPv6's clothes", dst: "[::ffff:203.0.113.1]:443", want: "passthrough TCP 203.0.113.1:443"},
		{name: "pod in the mesh", dst: "10.1.0.2:5432", want: "workload HBONE 10.1.0.2:15008 for 10.1.0.2:5432 expects shop/cart"},
		{name: "pod outside the mesh", dst: "10.1.0.4:5432", want: "workload TCP 10.1.0.4:5432"},
		{name: "pod over IPv6", dst: "[fd00::2]:5432", want: "workload HBONE [fd00::2]:15008 for [fd00::2]:5432 expects shop/cart"},
		{name: "own address", dst: "10.1.0.1:80", want: "workload TCP 10.1.0.1:80"},
		{name: "proxy by its address", dst: "10.1.0.9:15020", want: "workload TCP 10.1.0.9:15020"},
		{name: "tunnel without identity", dst: "10.1.0.7:80", want: "refused no_identity"},
		{name: "port 15001", dst: "10.1.0.2:15001", want: "refused loop"},
		{name: "port 15006", dst: "10.1.0.4:15006", want: "refused loop"},
		{name: "port 15008", dst: "10.96.0.9:15008", want: "refused loop"},
		{name: "own port outside", dst: "203.0.113.1:15001", want: "refused loop"},
		{name: "service, in order", dst: "10.96.0.1:80", want: "endpoint shop/cart HBONE 10.1.0.2:15008 for 10.1.0.2:8080 expects shop/cart" +
			", HBONE 10.1.0.3:15008 for 10.1.0.3:8080 expects shop/cart, TCP 10.1.0.4:8080"},
		{name: "service, by chance", dst: "10.96.0.1:80", choose: []int{2, 0, 0}, want: "endpoint shop/cart TCP 10.1.0.4:8080" +
			", HBONE 10.1.0.3:15008 for 10.1.0.3:8080 expects shop/cart, HBONE 10.1.0.2:15008 for 10.1.0.2:8080 expects shop/cart"},
		{name: "service to itself", dst: "10.96.0.2:80", want: "self shop/web TCP 10.1.0.1:8080"},
		{name: "service without such a port", dst: "10.96.0.1:8080", want: "refused no_port shop/cart"},
		{name: "service with an endpoint port of the mesh", dst: "10.96.0.1:81", want: "refused loop shop/cart"},
		{name: "service port without endpoints", dst: "10.96.0.1:82", want: "refused no_endpoint shop/cart"},
		{name: "service without endpoints", dst: "10.96.0.4:80", want: "refused no_endpoint shop/empty"},
		{name: "endpoint without a pod", dst: "10.96.0.5:80", want: "endpoint shop/manual TCP 192.0.2.7:8080"},
		{name: "two families, IPv4", dst: "10.96.0.6:80", want: "endpoint shop/dual HBONE 10.1.0.2:15008 for 10.1.0.2:8080 expects shop/cart"},
		{name: "two families, IPv6", dst: "[fd96::6]:80", want: "endpoint shop/dual HBONE [fd00::2]:15008 for [fd00::2]:8080 expects shop/cart"},
		{name: "waypoint of the client's namespace", dst: "10.96.0.3:80",
			want: "waypoint bank/account HBONE 10.1.0.9:15008 for 10.96.0.3:80 expects shop/waypoint"},
		{name: "waypoint that is away", dst: "10.96.0.3:80", client: "other", want: "refused no_waypoint bank/account"},
		{name: "port that no waypoint is bound to", dst: "10.96.0.3:90", want: "endpoint bank/account HBONE 10.1.0.2:15008 for 10.1.0.2:9090 expects shop/cart"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source, _ := w.WorkloadAt(netip.MustParseAddr("10.1.0.1"))
			if tc.client != "" {
				source = workload(tc.client, "client", mesh.TunnelHBONE, "10.5.0.1")
			}
			choose := func(n int) int {
				if len(tc.choose) == 0 {
					return 0
				}
				c := tc.choose[0]
				tc.choose = tc.choose[1:]
				if c >= n {
					t.Fatalf("chance asked for one of %d", n)
				}
				return c
			}
			d, err := decide(w, source, netip.MustParseAddrPort(tc.dst), choose)
			if got := render(d, err); got != tc.want {
				t.Errorf("\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func render(d Decision, err error) string {
	service := ""
	if d.Service != nil {
		service = " " + d.Service.Key.String()
	}
	if err != nil {
		var r *Refusal
		if !errors.As(err, &r) {
			return err.Error()
		}
		return "refused " + string(r.Why) + service
	}
	var hops []string
	for _, h := range d.Hops {
		s := h.Tunnel.String() + " " + h.Address.String()
		if h.Tunnel == mesh.TunnelHBONE {
			s += fmt.Sprintf(" for %s expects %s", h.Authority, strings.NewReplacer("/ns/", "", "/sa/", "/").Replace(h.Expect.Path()))
		}
		hops = append(hops, s)
	}
	return string(d.Why) + service + " " + strings.Join(hops, ", ")
}

func TestPickTakesDifferentOnes(t *testing.T) {
	var targets []mesh.Target
	for i := range 10 {
		targets = append(targets, mesh.Target{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)})
	}
	got := pick(targets, func(n int) int { return n - 1 })
	seen := map[netip.AddrPort]bool{}
	for _, x := range got {
		seen[x.Address] = true
	}
	if len(got) != maxHops || len(seen) != maxHops {
		t.Errorf("picked %v", got)
	}
}

func TestDestination(t *testing.T) {
	w := testWorld()
	self, _ := w.WorkloadAt(netip.MustParseAddr("10.1.0.2"))
	for authority, want := range map[string]string{
		"10.1.0.2:8080":                            "10.1.0.2:8080",
		"[fd00::2]:8080":                           "[fd00::2]:8080",
		"10.1.0.3:8080":                            "not_here",
		"127.0.0.1:8080":                           "not_here",
		"169.254.169.254:80":                       "not_here",
		"10.96.0.1:80":                             "not_here", // a VIP: that is for waypoints
		"10.1.0.2:15008":                           "loop",
		"10.1.0.2:15001":                           "loop",
		"cart.shop.svc.cluster.local:80":           "10.1.0.2:8080",
		"account.bank.svc.cluster.local:90":        "10.1.0.2:9090",
		"cart.shop.svc.cluster.local:81":           "loop",
		"cart.shop.svc.cluster.local:99":           "no_port",
		"web.shop.svc.cluster.local:80":            "not_here",
		"kubernetes.default.svc.cluster.local:443": "not_here",
	} {
		a, err := hbone.ParseAuthority(authority)
		if err != nil {
			t.Fatal(err)
		}
		dst, _, err := arrival{authority: a, local: netip.MustParseAddr("10.1.0.2")}.destination(w, self)
		got := dst.String()
		if err != nil {
			got = failure(err)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", authority, got, want)
		}
	}
}

func TestClientAddress(t *testing.T) {
	web, cart, speaker, thief := idOf("shop", "web"), idOf("shop", "cart"), idOf("shop", "waypoint"), idOf("other", "thief")
	w := testWorld()
	svc, _ := w.Service(mesh.ServiceKey{Namespace: "shop", Name: "cart"})
	bound := *svc
	bound.Speakers = []spiffeid.ID{speaker}
	w = w.Apply(mesh.Update{Services: []*mesh.Service{&bound}})
	for _, tc := range []struct {
		name         string
		peer, source spiffeid.ID
		told, seen   string
		want         string
	}{
		{"client tells its own", web, web, "10.1.0.1", "10.1.0.1", "10.1.0.1"},
		{"client tells another's", thief, thief, "10.1.0.1", "10.6.6.6", "10.6.6.6"},
		{"client tells nothing", web, web, "", "10.1.0.1", "10.1.0.1"},
		{"waypoint tells its client", speaker, web, "10.1.0.1", "10.1.0.9", "10.1.0.1"},
		{"waypoint tells an address from outside", speaker, web, "203.0.113.9", "10.1.0.9", "203.0.113.9"},
		{"waypoint tells loopback", speaker, web, "127.0.0.1", "10.1.0.9", "10.1.0.9"},
		{"waypoint tells a multicast group", speaker, web, "224.0.0.1", "10.1.0.9", "10.1.0.9"},
		{"waypoint tells a link-local one", speaker, web, "169.254.169.254", "10.1.0.9", "10.1.0.9"},
		{"other family", speaker, web, "fd00::1", "10.1.0.9", "10.1.0.9"},
		{"nothing usable", cart, cart, "fd00::1", "fd00::2", "invalid IP"},
	} {
		a := arrival{peer: tc.peer, source: tc.source, local: netip.MustParseAddr("10.1.0.2"), seen: netip.MustParseAddr(tc.seen)}
		if tc.told != "" {
			a.told = netip.MustParseAddr(tc.told)
		}
		if got := a.clientAddress(w, "shop/cart-1").String(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	if (arrival{peer: thief, source: web}).speaks(w, "shop/cart-1") || !(arrival{peer: speaker, source: web}).speaks(w, "shop/cart-1") ||
		(arrival{peer: speaker, source: web}).speaks(w, "shop/web-1") || !(arrival{peer: web, source: web}).speaks(w, "shop/cart-1") {
		t.Error("who may speak for whom")
	}
}

func TestBaggage(t *testing.T) {
	wl := workload("shop", "web-1", mesh.TunnelHBONE)
	if got, want := baggage(wl), "k8s.namespace.name=shop,k8s.pod.name=web-1,service.name=app,service.version=v1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	wl.OwnerKind, wl.OwnerName, wl.Version = "Deployment", "web", ""
	if got, want := baggage(wl), "k8s.namespace.name=shop,k8s.deployment.name=web,service.name=app"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
