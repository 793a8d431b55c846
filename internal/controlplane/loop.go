package controlplane

import (
	"context"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/gatewayapi"
	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/problem"
	"github.com/towpath-mesh/towpath/internal/registry"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// Hold-off of the translation: it waits for a pause of holdOff between events,
// but never longer than holdOffCeiling after the first one.
const (
	holdOff        = 10 * time.Millisecond
	holdOffCeiling = 100 * time.Millisecond
)

// publisher is what the loop needs of the config stream.
type publisher interface {
	PublishMesh(mesh.Update)
	PublishTables(up []*routing.Table, removed []routing.TableKey)
	SetSynced()
}

// loop owns the picture of the cluster. What it says is published twice: to the
// data plane at once, and as one value for the writer after each translation.
type loop struct {
	// events are the changes; synced is closed once all that there was at the
	// start has been taken from events.
	events <-chan event
	synced <-chan struct{}

	index           *registry.Index
	nodes           *nodes
	stream          publisher
	trustDomain     spiffeid.TrustDomain
	systemNamespace string
	bundleVersion   func() string // of the installed CRDs
	outcome         func(*outcome)
	// touched is told when an object that the controller made for a Gateway, or
	// the root certificates of a namespace, may have been changed by others.
	touched func(task)
	metrics *metrics
	log     *slog.Logger

	picture *picture
	own     map[ownObject]int64 // generations of what the controller has made
	tables  []*routing.Table    // as published
	last    atomic.Pointer[outcome]
}

// ownObject names an object that the controller made.
type ownObject struct{ kind, namespace, name string }

// outcome is the immutable result of one translation, with the objects that it
// was made from.
type outcome struct {
	gatewayapi.Result
	proxies  map[mesh.ProxyKey]gatewayapi.ProxyState
	problems []problem.Problem
	routes   map[gatewayapi.RouteID]client.Object
	gateways map[mesh.ProxyKey]*gatewayv1.Gateway
	classes  map[string]*gatewayv1.GatewayClass
	// rootNamespaces are those that have a copy of the root certificates.
	rootNamespaces map[string]bool
}

// run handles one thing at a time until ctx ends: an event, the end of the first
// lists, or the end of a hold-off. Nothing is built before the first lists are
// complete: half a picture would take things away from the data plane.
func (l *loop) run(ctx context.Context) error {
	l.picture, l.own = newPicture(), map[ownObject]int64{}
	hold := newHold(holdOff, holdOffCeiling)
	defer hold.stop()
	synced := l.synced
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-l.events:
			if l.take(e) && synced == nil {
				hold.touch(time.Now())
			}
		case <-synced:
			synced = nil
			l.build(ctx)
			l.stream.SetSynced()
		case <-hold.over():
			hold.done()
			l.build(ctx)
		}
	}
}

// take puts an event into the picture, publishes what it means for the mesh, and
// reports whether the routes must be translated again.
func (l *loop) take(e event) bool {
	l.metrics.events.WithLabelValues(kindOf(e.object)).Inc()
	u := l.register(e)
	if !u.Empty() {
		l.stream.PublishMesh(u)
	}
	if m, ok := e.object.(*metav1.PartialObjectMetadata); ok {
		return l.takeMetadata(m, e.removed)
	}
	if s, ok := e.object.(*corev1.Service); ok && s.Labels[mesh.LabelGatewayName] != "" {
		l.touched(task{kind: taskWaypoint, namespace: s.Namespace, name: s.Labels[mesh.LabelGatewayName]})
	}
	return l.picture.take(e)
}

// register tells the registry.
func (l *loop) register(e event) mesh.Update {
	switch o := e.object.(type) {
	case *corev1.Pod:
		if e.removed {
			return l.index.RemovePod(o.Namespace, o.Name)
		}
		return l.index.SetPod(o)
	case *corev1.Namespace:
		if e.removed {
			return l.index.RemoveNamespace(o.Name)
		}
		return l.index.SetNamespace(o)
	case *corev1.Service:
		if e.removed {
			return l.index.RemoveService(o.Namespace, o.Name)
		}
		return l.index.SetService(o)
	case *discoveryv1.EndpointSlice:
		if e.removed {
			return l.index.RemoveSlice(o.Namespace, o.Name)
		}
		return l.index.SetSlice(o)
	default:
		return mesh.Update{}
	}
}

// takeMetadata handles the kinds of which only the metadata is watched.
func (l *loop) takeMetadata(m *metav1.PartialObjectMetadata, removed bool) bool {
	if m.Kind == "Node" {
		if removed {
			l.nodes.remove(m.Name)
		} else {
			l.nodes.set(m.Name, string(m.UID))
		}
		return false
	}
	ref := ownObject{m.Kind, m.Namespace, m.Name}
	before, known := l.own[ref]
	keep(l.own, ref, m.Generation, removed)
	if m.Kind == "ConfigMap" {
		l.touched(task{kind: taskRoots, namespace: m.Namespace})
		return known == removed // came or went: the writer must know
	}
	// Deployments change their status all the time; other kinds count no
	// generations.
	if removed || !known || before != m.Generation || m.Generation == 0 {
		l.touched(task{kind: taskWaypoint, namespace: m.Namespace, name: m.Labels[mesh.LabelGatewayName]})
	}
	return false
}

// build translates and publishes what has changed. New tables go out before the
// bindings that lead traffic to them, and old ones after.
func (l *loop) build(ctx context.Context) {
	start := time.Now()
	in := l.picture.inputs()
	in.TrustDomain, in.SystemNamespace, in.BundleVersion = l.trustDomain, l.systemNamespace, l.bundleVersion()
	result := gatewayapi.Translate(in)
	up, removed := gatewayapi.DiffTables(l.tables, result.Tables)
	l.tables = result.Tables
	if len(up) > 0 {
		l.stream.PublishTables(up, nil)
	}
	if u := l.index.SetBindings(maps.Clone(result.Bindings)); !u.Empty() {
		l.stream.PublishMesh(u)
	}
	if len(removed) > 0 {
		l.stream.PublishTables(nil, removed)
	}
	took := time.Since(start)
	l.metrics.translate.Observe(took.Seconds())
	l.metrics.tables.Set(float64(len(l.tables)))
	if len(up)+len(removed) > 0 {
		l.log.DebugContext(ctx, "routes translated", "tables_changed", len(up), "tables_removed", len(removed), "seconds", took.Seconds())
	}
	l.conclude(result, in.Proxies)
}

// conclude hands the outcome to the writer and the config dump.
func (l *loop) conclude(result gatewayapi.Result, proxies map[mesh.ProxyKey]gatewayapi.ProxyState) {
	o := &outcome{
		Result:         result,
		proxies:        proxies,
		problems:       append(l.index.Problems(), result.Problems...),
		routes:         maps.Clone(l.picture.routes),
		gateways:       maps.Clone(l.picture.gateways),
		classes:        maps.Clone(l.picture.classes),
		rootNamespaces: map[string]bool{},
	}
	for ref := range l.own {
		if ref.kind == "ConfigMap" {
			o.rootNamespaces[ref.namespace] = true
		}
	}
	l.last.Store(o)
	l.outcome(o)
}

// dump is the last outcome for people: what is published and why something is
// not.
func (l *loop) dump() any {
	o := l.last.Load()
	if o == nil {
		return "nothing has been built yet"
	}
	type service struct {
		Service mesh.ServiceKey
		mesh.Bindings
	}
	var bound []service
	for key, b := range o.Bindings {
		bound = append(bound, service{key, b})
	}
	return map[string]any{"tables": o.Tables, "bindings": bound, "wanted": o.Wanted, "obsolete": o.Obsolete, "problems": o.problems}
}
