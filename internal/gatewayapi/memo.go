package gatewayapi

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// Translator translates again and again, and reuses what has not changed: the
// rules of a route whose object and backends are the same objects as before,
// and with them the table and the statuses. It gives what Translate gives, with
// equal tables and statuses being identical. An object must be replaced, not
// edited, to change. The zero Translator is ready; it is for one goroutine.
type Translator struct {
	routes   map[any]*route // by *HTTPRoute or *GRPCRoute
	services map[*corev1.Service]*service
	tables   map[levelKey]tableMemo
}

// reuse returns what was remembered of an object, or makes it, and remembers it
// in next.
func reuse[K comparable, V any](old, next map[K]*V, key K, make func() *V) *V {
	v, ok := old[key]
	if !ok {
		v = make()
	}
	next[key] = v
	return v
}

// lookup is a Service that the building of a route has asked for; nil if there
// was none.
type lookup struct {
	key   mesh.ServiceKey
	found *service
}

// current reports whether building again would find the same Services.
func (b *built) current(c *cluster) bool {
	for _, l := range b.lookups {
		if c.services[l.key] != l.found {
			return false
		}
	}
	return true
}

// tableMemo is a table and everything that it was made from.
type tableMemo struct {
	service *service
	proxy   mesh.ProxyKey
	asked   bool
	parts   []part
	table   *routing.Table
}

// part is the share of one attachment in a table.
type part struct {
	built *built
	ports []uint16
}

func (m tableMemo) equal(o tableMemo) bool {
	return m.service == o.service && m.proxy == o.proxy && m.asked == o.asked &&
		slices.EqualFunc(m.parts, o.parts, func(a, b part) bool { return a.built == b.built && slices.Equal(a.ports, b.ports) })
}

// tableOf returns the level's table, the one of before if nothing has changed.
func (t *Translator) tableOf(l *level, next map[levelKey]tableMemo) *routing.Table {
	m := tableMemo{service: l.service, proxy: l.choice.proxy, asked: l.asked()}
	for _, a := range l.attachments {
		if a.refusal == nil {
			m.parts = append(m.parts, part{a.route.built, a.ports})
		}
	}
	if old, ok := t.tables[l.key]; ok && old.equal(m) {
		m.table = old.table
	} else {
		m.table = l.table()
	}
	next[l.key] = m
	return m.table
}

// statusMemo is a route's statuses and what they were made from.
type statusMemo struct {
	built    *built
	verdicts []verdict
	entries  []gwv1.RouteParentStatus
}

// verdict is what one parent has made of a route.
type verdict struct {
	refusal    refusal // zero when accepted
	ports      string
	notes      string
	proxy      mesh.ProxyKey
	programmed bool
	problem    string
}
