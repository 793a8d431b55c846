package waypoint

import (
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
	"github.com/towpath-mesh/towpath/internal/wire"
	"github.com/towpath-mesh/towpath/waypoint/filter"
	"github.com/towpath-mesh/towpath/waypoint/match"
	"github.com/towpath-mesh/towpath/waypoint/upstream"
)

// table is a routing.Table ready to run. It is immutable.
type table struct {
	spec      *routing.Table
	service   mesh.ServiceKey
	listeners map[uint16]*listener
}

// listener is a routing.Listener ready to run.
type listener struct {
	spec    *routing.Listener
	matcher *match.Matcher
	rules   []*rule
	// through is what becomes of a request when the port has no routes: the
	// Service's own endpoints.
	through *rule
}

// rule is a routing.Rule ready to run.
type rule struct {
	spec     *routing.Rule // nil for a listener's through
	filters  *filter.Chain
	backends []*backend
	weights  *upstream.Weights
	// Names for records and spans; empty for through.
	route, name string
}

// backend is a routing.Backend ready to run.
type backend struct {
	spec    *routing.Backend
	filters *filter.Chain
}

func compileTable(t *routing.Table) (*table, error) {
	if t.Key.Parent.Kind != routing.ParentService {
		return nil, fmt.Errorf("table %s: not the table of a Service", tableName(t.Key))
	}
	out := &table{
		spec:      t,
		service:   mesh.ServiceKey{Namespace: t.Key.Parent.Namespace, Name: t.Key.Parent.Name},
		listeners: make(map[uint16]*listener, len(t.Listeners)),
	}
	for i := range t.Listeners {
		spec := &t.Listeners[i]
		l, err := compileListener(spec, out.service)
		if err != nil {
			return nil, fmt.Errorf("table %s port %d: %w", tableName(t.Key), spec.Port, err)
		}
		if out.listeners[spec.Port] != nil {
			return nil, fmt.Errorf("table %s: port %d twice", tableName(t.Key), spec.Port)
		}
		out.listeners[spec.Port] = l
	}
	return out, nil
}

// tableName is for messages only.
func tableName(k routing.TableKey) string { return k.Parent.Namespace + "/" + k.Parent.Name }

func compileListener(spec *routing.Listener, service mesh.ServiceKey) (*listener, error) {
	l := &listener{spec: spec, through: throughRule(service, spec.Port)}
	if spec.Protocol != routing.ProtocolHTTP {
		return l, nil
	}
	var err error
	if l.matcher, err = match.Compile(spec.Rules); err != nil {
		return nil, err
	}
	for i := range spec.Rules {
		r, err := compileRule(&spec.Rules[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", spec.Rules[i].ID.Name, err)
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

func compileRule(spec *routing.Rule) (*rule, error) {
	r := &rule{spec: spec, name: spec.ID.Section, weights: nil}
	r.route = spec.ID.Kind.String() + " " + spec.ID.Namespace + "/" + spec.ID.Name
	if r.name == "" {
		r.name = strconv.Itoa(spec.ID.Index)
	}
	var err error
	if r.filters, err = filter.Compile(spec.Filters); err != nil {
		return nil, err
	}
	weights := make([]uint32, len(spec.Backends))
	for i := range spec.Backends {
		b := &backend{spec: &spec.Backends[i]}
		if b.filters, err = filter.Compile(b.spec.Filters); err != nil {
			return nil, fmt.Errorf("backend %s: %w", b.spec.Service, err)
		}
		r.backends = append(r.backends, b)
		weights[i] = b.spec.Weight
	}
	r.weights = upstream.NewWeights(weights)
	return r, nil
}

func throughRule(service mesh.ServiceKey, port uint16) *rule {
	b := &backend{spec: &routing.Backend{Service: service, Port: port, Weight: 1}}
	return &rule{backends: []*backend{b}, weights: upstream.NewWeights([]uint32{1})}
}

// find returns the rule for a request. ok is false when the port has routes and
// none matches.
func (l *listener) find(req *wire.Request) (r *rule, m match.Result, ok bool) {
	if !l.spec.Routed {
		return l.through, match.Result{}, true
	}
	if m, ok = l.matcher.Find(req); !ok {
		return nil, m, false
	}
	return l.rules[m.Rule], m, true
}

// pick chooses a backend by weight, nil if none has any.
func (r *rule) pick() *backend {
	i := r.weights.Next()
	if i < 0 {
		return nil
	}
	return r.backends[i]
}

// tables holds the current tables by Service. Readers load one pointer.
type tables struct {
	current atomic.Pointer[map[mesh.ServiceKey]*table]

	mu      sync.Mutex // for writers and waiters
	changed chan struct{}
}

func (t *tables) load() map[mesh.ServiceKey]*table {
	if m := t.current.Load(); m != nil {
		return *m
	}
	return nil
}

// wait returns a channel that is closed at the next change. Take it before
// load.
func (t *tables) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// apply publishes compiled tables and takes others out.
func (t *tables) apply(up []*table, removed []mesh.ServiceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(t.load())
	if next == nil {
		next = map[mesh.ServiceKey]*table{}
	}
	for _, k := range removed {
		delete(next, k)
	}
	for _, c := range up {
		next[c.service] = c
	}
	t.current.Store(&next)
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}
