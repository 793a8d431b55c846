package gatewayapi

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// tables builds the table of every level that has a waypoint and something to
// do there, and from them what is bound to each Service.
func (c *cluster) tables(t *Translator, levels []*level) ([]*routing.Table, map[mesh.ServiceKey]mesh.Bindings) {
	var tables []*routing.Table
	bound := map[mesh.ServiceKey]mesh.Bindings{}
	made := make(map[levelKey]tableMemo, len(levels))
	for _, l := range levels {
		if l.choice.refusal != nil {
			continue
		}
		table := t.tableOf(l, made)
		if len(table.Listeners) == 0 {
			continue
		}
		tables = append(tables, table)
		if c.in.Proxies[l.choice.proxy].EverReady {
			b := bound[l.key.service]
			b.Waypoints = append(b.Waypoints, l.binding(table))
			bound[l.key.service] = b
		}
		speaker := c.identity(l.choice.proxy)
		for _, key := range l.reaches(table) {
			b := bound[key]
			b.Speakers = append(b.Speakers, speaker)
			bound[key] = b
		}
	}
	t.tables = made
	for key, b := range bound {
		slices.SortFunc(b.Speakers, func(x, y spiffeid.ID) int { return strings.Compare(x.String(), y.String()) })
		b.Speakers = slices.Compact(b.Speakers)
		bound[key] = b
	}
	slices.SortFunc(tables, compareTables)
	return tables, bound
}

func (l *level) table() *routing.Table {
	t := &routing.Table{
		Key: routing.TableKey{
			Proxy:  l.choice.proxy,
			Parent: routing.Parent{Kind: routing.ParentService, Namespace: l.key.service.Namespace, Name: l.key.service.Name},
		},
		ClientNamespace: l.key.client,
	}
	for _, p := range l.service.ports {
		if listener, ok := l.listener(p); ok {
			t.Listeners = append(t.Listeners, listener)
		}
	}
	slices.SortFunc(t.Listeners, func(a, b routing.Listener) int { return int(a.Port) - int(b.Port) })
	return t
}

// listener builds one port of the Service. It reports false for a port that has
// no route and does not pass the waypoint.
func (l *level) listener(p mesh.ServicePort) (routing.Listener, bool) {
	out := routing.Listener{Port: p.Port, Protocol: routing.ProtocolTCP}
	var last *route
	for _, a := range l.attachments {
		if a.refusal != nil || !slices.Contains(a.ports, p.Port) {
			continue
		}
		out.Routed, out.Protocol = true, routing.ProtocolHTTP
		if a.route != last { // two parentRefs of a route may mean one port
			out.Rules = append(out.Rules, a.route.built.rules...)
		}
		last = a.route
	}
	if out.Routed {
		return out, true
	}
	if p.Protocol == mesh.AppHTTP || p.Protocol == mesh.AppH2C {
		out.Protocol = routing.ProtocolHTTP
	}
	return out, l.asked()
}

// asked reports whether all ports pass the waypoint. What a label of the
// Service's side asks for is for everybody; consumers pass with their routes
// only.
func (l *level) asked() bool { return l.choice.asked && l.key.client == "" }

func (l *level) binding(t *routing.Table) mesh.WaypointBinding {
	b := mesh.WaypointBinding{ClientNamespace: l.key.client, Waypoint: l.choice.proxy}
	if l.asked() {
		return b
	}
	for _, listener := range t.Listeners {
		b.Ports = append(b.Ports, listener.Port)
	}
	return b
}

// reaches lists the Services to whose endpoints the level's proxy connects: the
// backends of the routes, and the parent itself where it has ports without one.
func (l *level) reaches(t *routing.Table) []mesh.ServiceKey {
	var out []mesh.ServiceKey
	if slices.ContainsFunc(t.Listeners, func(x routing.Listener) bool { return !x.Routed }) {
		out = append(out, l.key.service)
	}
	for _, a := range l.attachments {
		if a.refusal == nil {
			out = append(out, a.route.built.reaches...)
		}
	}
	slices.SortFunc(out, compareServices)
	return slices.Compact(out)
}

func compareTables(a, b *routing.Table) int {
	if d := compareProxies(a.Key.Proxy, b.Key.Proxy); d != 0 {
		return d
	}
	if d := int(a.Key.Parent.Kind) - int(b.Key.Parent.Kind); d != 0 {
		return d
	}
	return strings.Compare(a.Key.Parent.Namespace+"/"+a.Key.Parent.Name, b.Key.Parent.Namespace+"/"+b.Key.Parent.Name)
}
