package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// customer asks the frontend all the time, in the two ways that break
// differently: on connections kept alive, and on a new connection for each
// request. Requests start on schedule, whether or not the last has come back.
type customer struct {
	upstream string

	mu    sync.Mutex
	stats stats
}

// stats are counted since the start; whoever wants an interval takes the
// difference.
type stats struct {
	Requests map[string]int `json:"requests"` // by way
	Failures map[string]int `json:"failures"`
	// Slowest is the longest answer of each way since the start, in
	// milliseconds.
	Slowest map[string]float64 `json:"slowest_ms"`
	// Last are the newest failures, oldest first.
	Last []failure `json:"last,omitempty"`
}

type failure struct {
	At  time.Time `json:"at"`
	Way string    `json:"way"`
	Err string    `json:"err"`
}

const (
	keepAlive = "keep-alive"
	fresh     = "new connection"
	// timeout is far above what an answer takes; what needs longer is lost.
	timeout = 2 * time.Second
)

func newCustomer(upstream string) *customer {
	return &customer{upstream: upstream, stats: stats{Requests: map[string]int{}, Failures: map[string]int{}, Slowest: map[string]float64{}}}
}

func (c *customer) run(ctx context.Context) {
	keeping, closing := pooled(), pooled()
	closing.DisableKeepAlives = true
	kept := &http.Client{Transport: otelhttp.NewTransport(keeping), Timeout: timeout}
	each := &http.Client{Transport: otelhttp.NewTransport(closing), Timeout: timeout}
	var wg sync.WaitGroup
	wg.Go(func() { renew(ctx, keeping) })
	wg.Go(func() { c.every(ctx, 20*time.Millisecond, keepAlive, kept) })
	wg.Go(func() { c.every(ctx, 50*time.Millisecond, fresh, each) })
	wg.Wait()
}

// every starts a request at each tick and waits for all of them at the end.
func (c *customer) every(ctx context.Context, interval time.Duration, way string, client *http.Client) {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			wg.Go(func() { c.ask(context.WithoutCancel(ctx), way, client) })
		}
	}
}

func (c *customer) ask(ctx context.Context, way string, client *http.Client) {
	start := time.Now()
	err := get(ctx, client, c.upstream+"/tea")
	ms := float64(time.Since(start).Microseconds()) / 1000
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Requests[way]++
	c.stats.Slowest[way] = max(c.stats.Slowest[way], ms)
	if err == nil {
		return
	}
	c.stats.Failures[way]++
	c.stats.Last = append(c.stats.Last, failure{At: start, Way: way, Err: err.Error()})
	if len(c.stats.Last) > 20 {
		c.stats.Last = c.stats.Last[1:]
	}
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	return nil
}

func (c *customer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c.stats)
}
