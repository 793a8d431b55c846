// Command shop is the application of the demo: a frontend that asks a catalog
// that asks for prices, and a customer who never stops asking the frontend.
//
// It knows nothing of a mesh. It does what an instrumented application does:
// every program makes its own spans and passes W3C trace context on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// marker is in every answer of the catalog, so that a packet capture can show
// whether somebody on the wire can read it.
const marker = "the-price-of-tea-is-a-secret"

type config struct {
	role, version, upstream, otlp string
	sampling                      float64
}

func main() {
	var c config
	flag.StringVar(&c.role, "role", "", "frontend, catalog, prices or customer")
	flag.StringVar(&c.version, "version", "v1", "version that the answers carry")
	flag.StringVar(&c.upstream, "upstream", "", "URL of the service to ask")
	flag.StringVar(&c.otlp, "otlp", "", "OTLP/gRPC URL for spans; empty makes none")
	flag.Float64Var(&c.sampling, "sampling", 0.05, "share of the customer's traces that is sampled")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		slog.Error("shop ends", "error", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	shutdown, err := traces(ctx, c)
	if err != nil {
		return err
	}
	defer shutdown()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	transport := pooled()
	client := &http.Client{Transport: otelhttp.NewTransport(transport), Timeout: 5 * time.Second}
	go renew(ctx, transport)
	switch c.role {
	case "frontend", "catalog", "prices":
		mux.Handle("GET /", otelhttp.NewHandler(answer(c, client), c.role))
	case "customer":
		customer := newCustomer(c.upstream)
		mux.Handle("GET /stats", customer)
		mux.HandleFunc("GET /burst", customer.burst)
		mux.HandleFunc("GET /traced", customer.traced)
		go customer.run(ctx)
	default:
		return fmt.Errorf("role %q: want frontend, catalog, prices or customer", c.role)
	}
	return serve(ctx, mux)
}

// serve listens on 8080 and on the way out finishes what is under way.
func serve(ctx context.Context, h http.Handler) error {
	srv := &http.Server{Addr: ":8080", Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(grace)
	}()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// answer tells who answered and, below it, what the upstream said.
func answer(c config, client *http.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", c.version)
		if c.upstream == "" {
			fmt.Fprintf(w, "%s %s: %s\n", c.role, c.version, marker)
			return
		}
		up, err := http.NewRequestWithContext(r.Context(), http.MethodGet, c.upstream+r.URL.Path, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if beta := r.Header.Get("X-Beta"); beta != "" {
			up.Header.Set("X-Beta", beta)
		}
		resp, err := client.Do(up)
		if err != nil {
			http.Error(w, c.role+": "+err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		if v := resp.Header.Get("X-Version"); c.role == "frontend" && v != "" {
			w.Header().Set("X-Catalog-Version", v)
		}
		w.WriteHeader(resp.StatusCode)
		fmt.Fprintf(w, "%s %s: %s\n", c.role, c.version, marker)
		_, _ = io.Copy(w, resp.Body)
	})
}

func pooled() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	return t
}

// renewal is how often kept connections are closed between two requests, as
// clients do that follow changes of DNS.
const renewal = 3 * time.Second

func renew(ctx context.Context, t *http.Transport) {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.CloseIdleConnections()
		}
	}
}

func traces(ctx context.Context, c config) (func(), error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if c.otlp == "" {
		return func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.otlp))
	if err != nil {
		return nil, err
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Second)),
		sdktrace.WithSampler(onDemand{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.sampling))}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", c.role), attribute.String("service.version", c.version))))
	otel.SetTracerProvider(p)
	return func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = p.Shutdown(grace)
	}, nil
}
