package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// TraceOptions say where spans go and how many are made.
type TraceOptions struct {
	// Endpoint of the OTLP/gRPC receiver: "host:port", or a URL of scheme http
	// (no TLS) or https. Empty: no spans are made.
	Endpoint string
	// Insecure speaks to a "host:port" Endpoint without TLS.
	Insecure bool
	// Sampling is the share of new traces that is sampled, 0 to 1. A trace that
	// comes with a decision keeps it.
	Sampling float64

	// What the resource of every span says.
	ServiceName, ServiceNamespace, InstanceID string
	PodName, Node                             string
}

// Tracing makes and exports spans.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Enabled reports whether spans go anywhere.
func (t *Tracing) Enabled() bool { return t.provider != nil }

// scope names the instrumentation in every span.
const scope = "github.com/towpath-mesh/towpath"

// NewTracing connects lazily: a backend that is away loses spans, never a
// request. Spans wait in a bounded queue and are dropped when it is full. The
// error is about the options only. The caller calls Shutdown.
func NewTracing(ctx context.Context, o TraceOptions) (*Tracing, error) {
	if o.Sampling < 0 || o.Sampling > 1 {
		return nil, fmt.Errorf("trace sampling %v: want 0 to 1", o.Sampling)
	}
	if o.Endpoint == "" {
		return &Tracing{tracer: noop.NewTracerProvider().Tracer(scope)}, nil
	}
	dial, err := dialOptions(o)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracegrpc.New(ctx, dial...)
	if err != nil {
		return nil, fmt.Errorf("otlp endpoint %q: %w", o.Endpoint, err)
	}
	return newTracing(o, sdktrace.WithBatcher(exporter)), nil
}

// NewTracingTo is NewTracing with an exporter of the caller's, used at once for
// each span: for tests.
func NewTracingTo(o TraceOptions, e sdktrace.SpanExporter) *Tracing {
	return newTracing(o, sdktrace.WithSyncer(e))
}

func newTracing(o TraceOptions, export sdktrace.TracerProviderOption) *Tracing {
	p := sdktrace.NewTracerProvider(export,
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.Sampling))),
		sdktrace.WithResource(resourceOf(o)))
	return &Tracing{provider: p, tracer: p.Tracer(scope)}
}

func dialOptions(o TraceOptions) ([]otlptracegrpc.Option, error) {
	if !strings.Contains(o.Endpoint, "://") {
		opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(o.Endpoint)}
		if o.Insecure {
			opts = append(opts, otlptracegrpc.WithInsecure())
		}
		return opts, nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("otlp endpoint: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("otlp endpoint %q: want host:port, http://host:port or https://host:port", o.Endpoint)
	}
	return []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(o.Endpoint)}, nil
}

func resourceOf(o TraceOptions) *resource.Resource {
	var attrs []attribute.KeyValue
	for _, a := range []struct{ key, value string }{
		{"service.name", o.ServiceName},
		{"service.namespace", o.ServiceNamespace},
		{"service.instance.id", o.InstanceID},
		{"k8s.pod.name", o.PodName},
		{"k8s.namespace.name", o.ServiceNamespace},
		{"k8s.node.name", o.Node},
	} {
		if a.value != "" {
			attrs = append(attrs, attribute.String(a.key, a.value))
		}
	}
	return resource.NewSchemaless(attrs...)
}

// Tracer makes the spans; one that makes none when tracing is off.
func (t *Tracing) Tracer() trace.Tracer { return t.tracer }

// Shutdown exports what is waiting, for as long as ctx allows.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return errors.Join(t.provider.ForceFlush(ctx), t.provider.Shutdown(ctx))
}

var traceContext propagation.TraceContext

// ExtractTrace reads W3C trace context; the zero SpanContext when there is none
// or it is malformed.
func ExtractTrace(traceparent, tracestate string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	c := propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate}
	return trace.SpanContextFromContext(traceContext.Extract(context.Background(), c))
}

// InjectTrace writes W3C trace context; empty strings for an invalid one.
func InjectTrace(sc trace.SpanContext) (traceparent, tracestate string) {
	c := propagation.MapCarrier{}
	traceContext.Inject(trace.ContextWithSpanContext(context.Background(), sc), c)
	return c["traceparent"], c["tracestate"]
}
