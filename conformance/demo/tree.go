package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Jaeger's query API, as far as the demo reads it.
type jaegerTrace struct {
	TraceID   string
	Spans     []jaegerSpan
	Processes map[string]struct {
		ServiceName string
		Tags        []jaegerTag
	}
}

type jaegerSpan struct {
	TraceID, SpanID, OperationName, ProcessID string
	References                                []struct{ RefType, TraceID, SpanID string }
	StartTime, Duration                       int64 // microseconds
	Tags                                      []jaegerTag
}

type jaegerTag struct {
	Key   string
	Value any
}

func (s jaegerSpan) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

// hop is a span as it is drawn.
type hop struct {
	jaegerSpan
	service string
	// linked says that the span belongs to another trace and is shown because a
	// span of this one links to it: a tunnel that was open before the request.
	linked   bool
	children []*hop
}

// trace sends one sampled request through the shop and fetches its trace back.
func (d *demo) trace(ctx context.Context) error {
	ip, err := d.podIP(ctx, "shop", "customer")
	if err != nil {
		return err
	}
	jaeger, err := d.podIP(ctx, "observability", "jaeger")
	if err != nil {
		return err
	}
	var id string
	if err := fetch(ctx, "http://"+ip+":8080/traced", &id); err != nil {
		return err
	}
	d.say("trace %s, asked back from Jaeger's query API:", id)
	var roots []*hop
	err = until(ctx, 45*time.Second, "the trace in Jaeger", func() error {
		var hops []*hop
		if hops, err = readTrace(ctx, jaeger, id); err != nil {
			return err
		}
		roots = tree(hops)
		return complete(hops, len(roots))
	})
	for _, r := range roots {
		d.draw(r, "  ", roots[0].StartTime)
	}
	if err != nil {
		return err
	}
	d.proved("one trace: the application's spans, the waypoint's and the tunnels'")
	return nil
}

// readTrace fetches the trace and the spans of others that it links to.
func readTrace(ctx context.Context, jaeger, id string) ([]*hop, error) {
	t, err := fetchTrace(ctx, jaeger, id)
	if err != nil {
		return nil, err
	}
	hops := t.hops()
	for _, h := range slices.Clone(hops) {
		for _, ref := range h.References {
			if ref.RefType == "CHILD_OF" || ref.TraceID == id {
				continue
			}
			other, err := fetchTrace(ctx, jaeger, ref.TraceID)
			if err != nil {
				continue // the tunnel's span may come later; complete tells
			}
			for _, o := range other.hops() {
				if o.SpanID == ref.SpanID {
					o.linked = true
					o.References = nil
					h.children = append(h.children, o)
				}
			}
		}
	}
	return hops, nil
}

func fetchTrace(ctx context.Context, jaeger, id string) (*jaegerTrace, error) {
	var answer struct{ Data []jaegerTrace }
	if err := fetch(ctx, "http://"+jaeger+":16686/api/traces/"+id, &answer); err != nil {
		return nil, err
	}
	if len(answer.Data) != 1 {
		return nil, fmt.Errorf("%d traces with ID %s", len(answer.Data), id)
	}
	return &answer.Data[0], nil
}

func (t *jaegerTrace) hops() []*hop {
	var out []*hop
	for _, s := range t.Spans {
		out = append(out, &hop{jaegerSpan: s, service: t.Processes[s.ProcessID].ServiceName})
	}
	return out
}

// tree hangs every span below its parent and returns those without one.
func tree(hops []*hop) []*hop {
	byID := map[string]*hop{}
	for _, h := range hops {
		byID[h.SpanID] = h
	}
	var roots []*hop
	for _, h := range hops {
		var parent *hop
		for _, ref := range h.References {
			if ref.RefType == "CHILD_OF" && ref.TraceID == h.TraceID {
				parent = byID[ref.SpanID]
			}
		}
		if parent == nil {
			roots = append(roots, h)
		} else {
			parent.children = append(parent.children, h)
		}
	}
	byStart := func(a, b *hop) int { return cmp.Compare(a.StartTime, b.StartTime) }
	slices.SortFunc(roots, byStart)
	for _, h := range hops {
		slices.SortFunc(h.children, byStart)
	}
	return roots
}

// complete tells what is still missing: a request from frontend to catalog
// passes the waypoint, and a tunnel on either side of it.
func complete(hops []*hop, roots int) error {
	if roots != 1 {
		return fmt.Errorf("the trace has %d roots", roots)
	}
	var missing []string
	for _, want := range []string{"frontend", "catalog", "prices", "waypoint", "ztunnel"} {
		if !slices.ContainsFunc(hops, func(h *hop) bool { return h.has(want) }) {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return errors.New("no span of " + strings.Join(missing, ", ") + " yet")
	}
	return nil
}

func (h *hop) has(service string) bool {
	return strings.Contains(h.service, service) ||
		slices.ContainsFunc(h.children, func(c *hop) bool { return c.linked && c.has(service) })
}

func (d *demo) draw(h *hop, indent string, start int64) {
	name := fmt.Sprintf("%s%s: %s %s", indent, h.service, h.OperationName, strings.ToLower(h.tag("span.kind")))
	if h.linked {
		d.say("%-72s (linked: open since before) %8.2f ms", name, float64(h.Duration)/1000)
		return
	}
	d.say("%-72s +%7.2f ms %8.2f ms", name, float64(h.StartTime-start)/1000, float64(h.Duration)/1000)
	for _, c := range h.children {
		d.draw(c, indent+"  ", start)
	}
}
