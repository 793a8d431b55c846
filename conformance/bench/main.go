// Command bench measures what one request costs a proxy: requests for each
// second of the proxy's CPU, of the waypoint and of HAProxy, in interleaved
// rounds on the same core, with the same backend and load on another.
//
// The two do not do the same work: the waypoint takes requests out of mutual
// TLS tunnels and matches Gateway API rules, HAProxy forwards plain HTTP/1.1.
// The ratio is what the mesh costs over a plain proxy; it says nothing about
// either alone, and absolute numbers say nothing about other machines.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

type options struct {
	role     string
	waypoint string
	rounds   int
	period   time.Duration
	conns    int
	body     int
	minimum  float64
}

func main() {
	var o options
	flag.StringVar(&o.role, "role", "", "internal: backend")
	flag.StringVar(&o.waypoint, "waypoint", "bin/waypoint", "the waypoint program")
	flag.IntVar(&o.rounds, "rounds", 3, "interleaved rounds")
	flag.DurationVar(&o.period, "period", 3*time.Second, "length of a sample")
	flag.IntVar(&o.conns, "conns", 64, "keep-alive connections")
	flag.IntVar(&o.body, "body", 128, "bytes in a response")
	flag.Float64Var(&o.minimum, "min-ratio", 0, "fail below this share of HAProxy's efficiency")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.role == "backend" {
		err = runBackend(ctx, o.body)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	results := map[string][]float64{}
	for round := range o.rounds {
		order := r.targets
		if round%2 == 1 { // what comes first in a round must not matter
			order = slices.Clone(order)
			slices.Reverse(order)
		}
		for _, t := range order {
			s, err := measure(ctx, t, o)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			results[t.name] = append(results[t.name], s.perCPUSecond())
			fmt.Printf("round %d  %-9s %8d requests  %7.2f CPU s  %9.0f requests/CPU s  p99 %s\n",
				round+1, t.name, s.requests, s.cpu.Seconds(), s.perCPUSecond(), s.p99.Round(time.Microsecond))
		}
	}
	return report(o, results)
}

// report prints the table that belongs into a README, and fails a run below the
// minimum.
func report(o options, results map[string][]float64) error {
	base := median(results["haproxy"])
	fmt.Printf("\nHTTP/1.1, %d connections, %d B; requests per CPU second, ratio of medians to HAProxy (lowest, highest of the rounds)\n\n", o.conns, o.body)
	fmt.Println("| proxy | ratio |\n|---|---|")
	var ratio float64
	for _, name := range []string{"haproxy", "waypoint"} {
		v := results[name]
		ratio = median(v) / base
		fmt.Printf("| %s | %.2f (%.2f, %.2f) |\n", name, ratio, slices.Min(v)/base, slices.Max(v)/base)
	}
	if ratio < o.minimum {
		return fmt.Errorf("waypoint has %.2f of HAProxy's efficiency, want %.2f", ratio, o.minimum)
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}
