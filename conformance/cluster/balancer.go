package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// service is the part of a Service that the address controller looks at.
type service struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Type  string  `json:"type"`
		Class *string `json:"loadBalancerClass"`
	} `json:"spec"`
	Status struct {
		LoadBalancer struct {
			Ingress []ingress `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

type ingress struct {
	IP string `json:"ip"`
}

type serviceList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Items []service `json:"items"`
}

// addressPool hands out addresses in turn: one that has become free is given
// again as late as possible, so that no client takes a new Service for an old one.
type addressPool struct {
	prefix netip.Prefix
	last   netip.Addr
}

func newAddressPool(cidr string) *addressPool {
	prefix := netip.MustParsePrefix(cidr)
	return &addressPool{prefix: prefix, last: prefix.Addr()}
}

// take returns the next address that is not used.
func (p *addressPool) take(used map[netip.Addr]bool) (netip.Addr, error) {
	network := p.prefix.Addr()
	for ip := p.last.Next(); ; ip = ip.Next() {
		if !p.prefix.Contains(ip) {
			ip = network
		}
		if ip != network && !used[ip] {
			p.last = ip
			return ip, nil
		}
		if ip == p.last {
			return netip.Addr{}, errors.New("no address is left in " + p.prefix.String())
		}
	}
}

// assign returns the addresses to give, by index of the Service. A Service keeps
// the address it has; one that asks for another class of balancer gets none.
func (p *addressPool) assign(services []service) (map[int]netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, s := range services {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if ip, err := netip.ParseAddr(in.IP); err == nil {
				used[ip] = true
			}
		}
	}
	given := map[int]netip.Addr{}
	for i, s := range services {
		if !s.wantsAddress() {
			continue
		}
		ip, err := p.take(used)
		if err != nil {
			return given, err
		}
		used[ip] = true
		given[i] = ip
	}
	return given, nil
}

func (s service) wantsAddress() bool {
	return s.Spec.Type == "LoadBalancer" && s.Spec.Class == nil && len(s.Status.LoadBalancer.Ingress) == 0
}

// RunAddressController gives addresses to Services of type LoadBalancer until
// the context ends or the process is told to. kube-proxy does the rest: it
// serves the addresses it reads in the status of a Service.
func RunAddressController(ctx context.Context, stateDir string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	api, err := layout{stateDir}.newAPIClient("admin")
	if err != nil {
		return err
	}
	defer api.close()
	pool := newAddressPool(balancerCIDR)
	for ctx.Err() == nil {
		if err := assignAndWatch(ctx, api, pool); err != nil && ctx.Err() == nil {
			slog.Warn("services not served", "error", err)
			sleep(ctx, time.Second)
		}
	}
	return nil
}

// assignAndWatch gives addresses once, and returns when a Service has changed.
func assignAndWatch(ctx context.Context, api *apiClient, pool *addressPool) error {
	var list serviceList
	if err := api.get(ctx, "/api/v1/services", &list); err != nil {
		return err
	}
	given, err := pool.assign(list.Items)
	if err != nil {
		return err
	}
	for i, ip := range given {
		s := list.Items[i].Metadata
		path := fmt.Sprintf("/api/v1/namespaces/%s/services/%s/status", s.Namespace, s.Name)
		status := map[string]any{"loadBalancer": map[string]any{"ingress": []ingress{{IP: ip.String()}}}}
		if err := api.patch(ctx, path, map[string]any{"status": status}); err != nil {
			return fmt.Errorf("give %s/%s an address: %w", s.Namespace, s.Name, err)
		}
		slog.Info("address given", "service", s.Namespace+"/"+s.Name, "address", ip)
	}
	return waitForChange(ctx, api, list.Metadata.ResourceVersion)
}

// waitForChange returns when a Service without an address appears, or when the
// server ends the watch, as it does every few minutes.
func waitForChange(ctx context.Context, api *apiClient, version string) error {
	path := "/api/v1/services?watch=1&timeoutSeconds=240&resourceVersion=" + version
	body, err := api.open(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	events := json.NewDecoder(body)
	for {
		var event struct {
			Type   string  `json:"type"`
			Object service `json:"object"`
		}
		if events.Decode(&event) != nil {
			return nil
		}
		if event.Type == "ERROR" || event.Type != "DELETED" && event.Object.wantsAddress() {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
