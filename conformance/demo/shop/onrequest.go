package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// maxBurst bounds what one call may ask for.
const maxBurst = 10_000

// burst sends n requests, eight at a time, and tells how many each version of
// the catalog answered. With beta=true they carry the header that the demo's
// route matches.
func (c *customer) burst(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > maxBurst {
		http.Error(w, fmt.Sprintf("n: want 1 to %d", maxBurst), http.StatusBadRequest)
		return
	}
	client := &http.Client{Transport: pooled(), Timeout: timeout}
	versions := map[string]int{}
	var mu sync.Mutex
	todo := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range todo {
				v := c.versionOf(r.Context(), client, r.URL.Query().Get("beta"))
				mu.Lock()
				versions[v]++
				mu.Unlock()
			}
		})
	}
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	wg.Wait()
	_ = json.NewEncoder(w).Encode(versions)
}

// versionOf tells which catalog answered, or "error".
func (c *customer) versionOf(ctx context.Context, client *http.Client, beta string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.upstream+"/tea", nil)
	if err != nil {
		return "error"
	}
	if beta != "" {
		req.Header.Set("X-Beta", beta)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "error"
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "error"
	}
	return resp.Header.Get("X-Catalog-Version")
}

// traced sends one request whose trace is sampled, and tells the trace's ID.
func (c *customer) traced(w http.ResponseWriter, r *http.Request) {
	ctx, span := otel.Tracer("shop").Start(context.WithValue(r.Context(), demanded{}, true), "buy tea", trace.WithNewRoot())
	defer span.End()
	client := &http.Client{Transport: otelhttp.NewTransport(pooled()), Timeout: timeout}
	if err := get(ctx, client, c.upstream+"/tea"); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprint(w, span.SpanContext().TraceID())
}

// demanded marks a context in which the trace must be sampled.
type demanded struct{}

// onDemand samples what is demanded, and else does as told.
type onDemand struct{ sdktrace.Sampler }

func (o onDemand) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.ParentContext.Value(demanded{}) == true {
		return sdktrace.AlwaysSample().ShouldSample(p)
	}
	return o.Sampler.ShouldSample(p)
}
