package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

//go:embed route.yaml
var routeYAML []byte

// marker is in every answer of the shop (see shop/main.go).
const marker = "the-price-of-tea-is-a-secret"

// counts are what the customer has counted since its start.
type counts struct {
	Requests map[string]int `json:"requests"`
	Failures map[string]int `json:"failures"`
	Last     []struct {
		At       time.Time
		Way, Err string
	} `json:"last"`
}

// loss is what happened between two moments.
type loss struct {
	requests, failures int
	newest             string
}

func (d *demo) counts(ctx context.Context) (counts, error) {
	var c counts
	ip, err := d.podIP(ctx, "shop", "customer")
	if err != nil {
		return c, err
	}
	return c, fetch(ctx, "http://"+ip+":8080/stats", &c)
}

func since(a, b counts) loss {
	var l loss
	for way := range maps.Keys(b.Requests) {
		l.requests += b.Requests[way] - a.Requests[way]
		l.failures += b.Failures[way] - a.Failures[way]
	}
	if n := len(b.Last); l.failures > 0 && n > 0 {
		l.newest = b.Last[n-1].Way + ": " + b.Last[n-1].Err
	}
	return l
}

// during counts what the customer sees while something happens, and a little
// longer.
func (d *demo) during(ctx context.Context, after time.Duration, do func() error) (loss, error) {
	a, err := d.counts(ctx)
	if err != nil {
		return loss{}, err
	}
	if err := do(); err != nil {
		return loss{}, err
	}
	if err := pause(ctx, after); err != nil {
		return loss{}, err
	}
	b, err := d.counts(ctx)
	return since(a, b), err
}

func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// noneLost fails the demo when a request was lost.
func (d *demo) noneLost(when string, l loss) error {
	if l.requests == 0 {
		return fmt.Errorf("%s: the customer sent nothing", when)
	}
	if l.failures > 0 {
		return fmt.Errorf("%s: %d of %d requests were lost; the newest: %s", when, l.failures, l.requests, l.newest)
	}
	d.proved("%s: %d requests, 0 lost", when, l.requests)
	return nil
}

func (d *demo) before(ctx context.Context) error {
	l, err := d.during(ctx, 5*time.Second, func() error { return nil })
	if err != nil {
		return err
	}
	if err := d.noneLost("before enrolment", l); err != nil {
		return err
	}
	seen, err := d.capture(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	if seen.plaintext == 0 {
		return errors.New("the capture between the nodes does not show the shop's plaintext even before enrolment: it would prove nothing later")
	}
	d.say("capture on node-1: %d packets, the shop's secret readable in %d of them", seen.packets, seen.plaintext)
	return nil
}

func (d *demo) enrol(ctx context.Context) error {
	var took time.Duration
	l, err := d.during(ctx, 5*time.Second, func() error {
		start := time.Now()
		if err := d.kubectl(ctx, "label", "namespace", "shop", "towpath.io/mesh=enabled"); err != nil {
			return err
		}
		err := until(ctx, time.Minute, "enrolment of the shop's pods", func() error { return d.enrolled(ctx, true) })
		took = time.Since(start)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.noneLost("while being enrolled, and after", l); err != nil {
		return err
	}
	d.proved("all pods of the namespace in the mesh after %.1f s, none restarted", took.Seconds())
	return nil
}

// enrolled checks the condition that the node agents report for every pod of
// the shop, and that no container was restarted for it.
func (d *demo) enrolled(ctx context.Context, want bool) error {
	list, err := d.pods(ctx, "shop", "app")
	if err != nil {
		return err
	}
	for _, p := range list {
		is := false
		for _, c := range p.Status.Conditions {
			is = is || (c.Type == "towpath.io/Enrolled" && c.Status == "True")
		}
		if is != want {
			return fmt.Errorf("pod %s: enrolled is %t", p.Metadata.Name, is)
		}
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				return fmt.Errorf("pod %s was restarted", p.Metadata.Name)
			}
		}
	}
	return nil
}

func (d *demo) onTheWire(ctx context.Context) error {
	// Connections that were there before enrolment go on in the clear until they
	// end: nothing can put TLS into them. The shop's clients renew theirs every
	// few seconds.
	var seen sighting
	err := until(ctx, 2*time.Minute, "end of the connections from before", func() error {
		var err error
		if seen, err = d.capture(ctx, 3*time.Second); err != nil {
			return err
		}
		if seen.plaintext > 0 {
			return fmt.Errorf("the secret is readable in %d of %d packets", seen.plaintext, seen.packets)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if seen.tunnel == 0 {
		return fmt.Errorf("capture of %d packets holds none of a tunnel", seen.packets)
	}
	d.proved("capture on node-1: %d packets, %d of them in tunnels to port 15008, the secret in none", seen.packets, seen.tunnel)
	version, err := d.handshake(ctx)
	if err != nil {
		return err
	}
	d.proved("a tunnel's handshake between the nodes, captured: %s", version)
	return nil
}

// record is the part of an access record that the demo reads.
type record struct {
	Msg       string `json:"msg"`
	Direction string `json:"direction"`
	Protocol  string `json:"protocol"`
	Src, Dst  struct{ Addr, Workload, Identity, Service string }
}

func (d *demo) identities(ctx context.Context) error {
	seen := map[string]bool{}
	err := until(ctx, 30*time.Second, "a tunnelled connection from customer to frontend", func() error {
		out, err := d.ask(ctx, nil, "-n", "towpath-system", "logs", "-l", "app.kubernetes.io/name=towpath-ztunnel", "--tail=400")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			var r record
			if json.Unmarshal([]byte(line), &r) != nil || r.Msg != "access" || r.Protocol != "HBONE" || r.Direction != "inbound" {
				continue
			}
			if r.Src.Identity != "" && strings.HasPrefix(r.Dst.Workload, "frontend") {
				seen[fmt.Sprintf("%s (%s)  ->  %s", r.Src.Identity, r.Src.Addr, r.Dst.Identity)] = true
			}
		}
		if len(seen) == 0 {
			return errors.New("none in the access records yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.proved("access records of ztunnel, peers authenticated by mutual TLS:")
	for _, s := range slices.Sorted(maps.Keys(seen))[:1] {
		d.say("    %s", s)
	}
	return nil
}

func (d *demo) route(ctx context.Context) error {
	var took time.Duration
	l, err := d.during(ctx, 3*time.Second, func() error {
		start := time.Now()
		if err := d.apply(ctx, "route.yaml", routeYAML); err != nil {
			return err
		}
		err := until(ctx, 90*time.Second, "the waypoint and the route", func() error { return d.betaIsV2(ctx) })
		took = time.Since(start)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.noneLost("while the waypoint appeared and the route came into force", l); err != nil {
		return err
	}
	d.proved("waypoint made and route in force after %.1f s", took.Seconds())
	if err := d.split(ctx); err != nil {
		return err
	}
	return d.routeStatus(ctx)
}

// betaIsV2 holds once the route is in force: without it, half of the answers
// would come from v1.
func (d *demo) betaIsV2(ctx context.Context) error {
	got, err := d.burst(ctx, 30, true)
	if err != nil {
		return err
	}
	if got["v2"] != 30 {
		return fmt.Errorf("answers with x-beta: %v", got)
	}
	return nil
}

func (d *demo) burst(ctx context.Context, n int, beta bool) (map[string]int, error) {
	ip, err := d.podIP(ctx, "shop", "customer")
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://%s:8080/burst?n=%d", ip, n)
	if beta {
		url += "&beta=true"
	}
	got := map[string]int{}
	return got, fetch(ctx, url, &got)
}

// split counts who answered. 2000 requests at 10 % have a standard deviation of
// 0.67 points: 7 to 13 is four and a half of them.
func (d *demo) split(ctx context.Context) error {
	const n = 2000
	got, err := d.burst(ctx, n, false)
	if err != nil {
		return err
	}
	share := 100 * float64(got["v2"]) / n
	if got["v1"]+got["v2"] != n || share < 7 || share > 13 {
		return fmt.Errorf("split of %d requests: %v, want 90/10", n, got)
	}
	d.proved("%d requests: v1 %d, v2 %d (%.1f %%)", n, got["v1"], got["v2"], share)
	got, err = d.burst(ctx, 300, true)
	if err != nil {
		return err
	}
	if got["v2"] != 300 {
		return fmt.Errorf("300 requests with x-beta: %v, want all from v2", got)
	}
	d.proved("300 requests with the header x-beta: all from v2")
	return nil
}

func (d *demo) routeStatus(ctx context.Context) error {
	return until(ctx, 10*time.Second, "status of the route", func() error {
		out, err := d.ask(ctx, nil, "-n", "shop", "get", "httproute", "catalog", "-o",
			`jsonpath={range .status.parents[*]}{range .conditions[*]}{.type}={.status}({.reason}) {end}{end}`)
		if err != nil {
			return err
		}
		status := strings.TrimSpace(string(out))
		if !strings.Contains(status, "Accepted=True") || !strings.Contains(status, "ResolvedRefs=True") {
			return fmt.Errorf("route status: %q", status)
		}
		d.proved("status of HTTPRoute shop/catalog: %s", status)
		return nil
	})
}
