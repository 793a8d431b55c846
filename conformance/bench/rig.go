package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/towpath-mesh/towpath/identity"
	"github.com/towpath-mesh/towpath/internal/configstream"
	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/meshtest"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// rig is everything that runs during a bench.
type rig struct {
	dir       string
	control   *meshtest.ControlPlane
	dialer    *hbone.Dialer
	processes []*exec.Cmd
	targets   []target
}

// The one Service of the bench, and the waypoint in front of it.
var (
	service = mesh.ServiceKey{Namespace: "bench", Name: "app"}
	proxy   = mesh.ProxyKey{Namespace: "bench", Name: "waypoint"}
	vip     = netip.MustParseAddr("10.96.0.80")
)

func newRig(ctx context.Context, o options) (*rig, error) {
	r := &rig{}
	if err := r.start(ctx, o); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) start(ctx context.Context, o options) error {
	if err := pin(os.Getpid(), loadCore); err != nil {
		return err
	}
	var err error
	if r.dir, err = os.MkdirTemp("", "towpath-bench-"); err != nil {
		return err
	}
	backend, err := r.startBackend(o)
	if err != nil {
		return err
	}
	if err := r.addHAProxy(ctx, backend); err != nil {
		return err
	}
	return r.addWaypoint(ctx, o, backend)
}

func (r *rig) close() {
	for _, p := range r.processes {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	if r.dialer != nil {
		r.dialer.Close()
	}
	if r.control != nil {
		_ = r.control.Close()
	}
	if r.dir != "" {
		_ = os.RemoveAll(r.dir)
	}
}

func (r *rig) startBackend(o options) (netip.AddrPort, error) {
	self, err := os.Executable()
	if err != nil {
		return netip.AddrPort{}, err
	}
	cmd := exec.Command(self, "-role", "backend", "-body", fmt.Sprint(o.body))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return netip.AddrPort{}, err
	}
	if err := cmd.Start(); err != nil {
		return netip.AddrPort{}, err
	}
	r.processes = append(r.processes, cmd)
	if err := pin(cmd.Process.Pid, loadCore); err != nil {
		return netip.AddrPort{}, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("backend: %w", err)
	}
	return netip.ParseAddrPort(strings.TrimSpace(line))
}

// haproxyConfig keeps connections on both sides, as the waypoint does, and logs
// nothing.
const haproxyConfig = `global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind %s
  default_backend out
backend out
  http-reuse always
  server app %s
`

func (r *rig) addHAProxy(ctx context.Context, backend netip.AddrPort) error {
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	file := filepath.Join(r.dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, addr, backend), 0o600); err != nil {
		return err
	}
	cmd, err := start(proxyCore, nil, "haproxy", "-db", "-f", file)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, cmd)
	r.targets = append(r.targets, target{name: "haproxy", pid: cmd.Process.Pid,
		dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }})
	return waitFor(ctx, addr)
}

func (r *rig) addWaypoint(ctx context.Context, o options, backend netip.AddrPort) error {
	var err error
	if r.control, err = meshtest.StartControlPlane(r.dir, netip.MustParseAddr("127.0.0.1")); err != nil {
		return err
	}
	r.publish(backend)
	token, err := r.control.Token(configstream.Peer{Role: configstream.RoleProxy, Namespace: proxy.Namespace,
		ServiceAccount: proxy.Name, Pod: "waypoint-1", Node: "bench", Proxy: proxy}, "uid-waypoint")
	if err != nil {
		return err
	}
	r.control.Cluster.SetPod("uid-waypoint", waypointID, "bench")
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	port := netip.MustParseAddrPort(addr).Port()
	ready, err := freeAddress()
	if err != nil {
		return err
	}
	cmd, err := start(proxyCore, []string{"GOMAXPROCS=1"}, o.waypoint,
		"--controller-address="+r.control.Address, "--trust-domain="+meshtest.TrustDomain.Name(), "--root-cert="+r.control.RootFile,
		"--token="+token, "--gateway-namespace="+proxy.Namespace, "--gateway-name="+proxy.Name, fmt.Sprintf("--hbone-port=%d", port),
		"--admin-address=", "--metrics-address=", "--ready-address="+ready, "--log-level=error")
	if err != nil {
		return err
	}
	r.processes = append(r.processes, cmd)
	if err := waitFor(ctx, addr); err != nil {
		return err
	}
	return r.connectWaypoint(cmd.Process.Pid, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
}

// Who speaks: the bench's client and the waypoint.
var (
	clientID   = meshtest.ServiceAccount("bench", "client")
	waypointID = meshtest.ServiceAccount("bench", "waypoint")
)

func (r *rig) connectWaypoint(pid int, addr netip.AddrPort) error {
	source, err := r.control.Source(clientID)
	if err != nil {
		return err
	}
	r.dialer = hbone.NewDialer(hbone.DialerOptions{})
	config := identity.ClientTLS(source, identity.OneOf(waypointID))
	r.targets = append(r.targets, target{name: "waypoint", pid: pid, dial: func(ctx context.Context) (net.Conn, error) {
		return r.dialer.Dial(ctx, hbone.Request{Authority: netip.AddrPortFrom(vip, 80).String(), Address: addr, TLS: config, PoolKey: "bench"})
	}})
	return nil
}

// publish tells the waypoint of the Service, its one endpoint and a route.
func (r *rig) publish(backend netip.AddrPort) {
	r.control.Config.PublishMesh(mesh.Update{
		Services: []*mesh.Service{{Key: service, Hostname: "app.bench.svc.cluster.local", Addresses: []netip.Addr{vip},
			Ports: []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.AppHTTP}}}},
		Slices: []*mesh.EndpointSlice{{Key: mesh.SliceKey{Namespace: "bench", Name: "app-1"}, Service: service,
			Ports:     []mesh.EndpointPort{{Name: "http", Port: backend.Port()}},
			Endpoints: []mesh.Endpoint{{Address: backend.Addr(), Ready: true, Serving: true}}}},
	})
	r.control.Config.PublishTables([]*routing.Table{{
		Key: routing.TableKey{Proxy: proxy, Parent: routing.Parent{Kind: routing.ParentService, Namespace: service.Namespace, Name: service.Name}},
		Listeners: []routing.Listener{{Port: 80, Protocol: routing.ProtocolHTTP, Routed: true, Rules: []routing.Rule{{
			ID:       routing.RuleID{Namespace: "bench", Name: "app"},
			Matches:  []routing.Match{{Path: routing.PathMatch{Value: "/"}}},
			Backends: []routing.Backend{{Service: service, Port: 80, Weight: 1}},
		}}}},
	}}, nil)
	r.control.Config.SetSynced()
}
