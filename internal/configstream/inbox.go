package configstream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/towpath-mesh/towpath/internal/mesh"
	"github.com/towpath-mesh/towpath/internal/routing"
)

// inbox is what a client has accepted so far, and hands on what comes. Only the
// client's Run uses it.
type inbox struct {
	opts      ClientOptions
	heard     map[kind]bool
	workloads ledger[mesh.WorkloadID]
	slices    ledger[mesh.SliceKey]
	services  ledger[mesh.ServiceKey]
	tables    ledger[routing.TableKey]
}

func newInbox(o ClientOptions) *inbox {
	return &inbox{
		opts:      o,
		heard:     map[kind]bool{},
		workloads: ledger[mesh.WorkloadID]{},
		slices:    ledger[mesh.SliceKey]{},
		services:  ledger[mesh.ServiceKey]{},
		tables:    ledger[routing.TableKey]{},
	}
}

// complete reports whether every type of the role has come.
func (in *inbox) complete() bool { return len(in.heard) == len(kindsOf(in.opts.Role)) }

// versions returns what the client has, for a stream to resume from.
func (in *inbox) versions(k kind) map[string]string {
	switch k {
	case kindWorkload:
		return in.workloads.versions()
	case kindSlice:
		return in.slices.versions()
	case kindService:
		return in.services.versions()
	default:
		return in.tables.versions()
	}
}

// apply takes over a response, all that is good of it in one step, and returns
// what it refuses.
func (in *inbox) apply(k kind, resp *discoverypb.DeltaDiscoveryResponse) rejections {
	bad := rejections{}
	switch k {
	case kindWorkload:
		b := read(in.workloads, resp, bad, decodeWorkload, func(w *mesh.Workload) mesh.WorkloadID { return w.ID })
		in.mesh(mesh.Update{Workloads: b.up, RemovedWorkloads: b.removed})
		in.workloads.commit(b)
	case kindSlice:
		b := read(in.slices, resp, bad, decodeSlice, func(s *mesh.EndpointSlice) mesh.SliceKey { return s.Key })
		in.mesh(mesh.Update{Slices: b.up, RemovedSlices: b.removed})
		in.slices.commit(b)
	case kindService:
		b := read(in.services, resp, bad, decodeService, func(s *mesh.Service) mesh.ServiceKey { return s.Key })
		in.mesh(mesh.Update{Services: b.up, RemovedServices: b.removed})
		in.services.commit(b)
	case kindTable:
		b := read(in.tables, resp, bad, decodeTable, func(t *routing.Table) routing.TableKey { return t.Key })
		in.tables.commit(in.handTables(b, bad))
	}
	in.heard[k] = true
	return bad
}

func (in *inbox) mesh(u mesh.Update) {
	if u.Empty() {
		return
	}
	if in.opts.Worlds != nil {
		in.opts.Worlds.Apply(u)
	}
	if in.opts.OnMesh != nil {
		in.opts.OnMesh(u)
	}
}

// handTables gives the tables to OnTables and takes those out of the batch that
// it refuses.
func (in *inbox) handTables(b batch[routing.TableKey, *routing.Table], bad rejections) batch[routing.TableKey, *routing.Table] {
	if in.opts.OnTables == nil || len(b.up) == 0 && len(b.removed) == 0 {
		return b
	}
	err := in.opts.OnTables(b.up, b.removed)
	if err == nil {
		return b
	}
	some, single := errors.AsType[TableErrors](err)
	if !single {
		for _, name := range slices.Concat(slices.Collect(maps.Keys(b.taken)), b.gone) {
			bad[name] = err
		}
		return batch[routing.TableKey, *routing.Table]{}
	}
	maps.DeleteFunc(b.taken, func(name string, r record[routing.TableKey]) bool {
		if e := some[r.key]; e != nil {
			bad[name] = e
		}
		return some[r.key] != nil
	})
	return b
}

// TableErrors is an error of OnTables that refuses single tables: those named
// are kept out, so that what was there under their keys stays, and are reported
// to the server; the other tables, and all removals, count as taken over.
type TableErrors map[routing.TableKey]error

func (e TableErrors) Error() string {
	r := rejections{}
	for k, err := range e {
		r[tableName(k)] = err
	}
	return r.Error()
}

// rejections are the resources of a response that a client refuses, by name.
type rejections map[string]error

// Error lists the resources, one on a line, as the message of a NACK.
func (r rejections) Error() string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		lines = append(lines, fmt.Sprintf("%s: %v", name, r[name]))
	}
	return strings.Join(lines, "\n")
}

// ledger tells, by resource name, what was accepted last.
type ledger[K comparable] map[string]record[K]

type record[K comparable] struct {
	key     K
	version string
}

func (l ledger[K]) versions() map[string]string {
	out := make(map[string]string, len(l))
	for name, r := range l {
		out[name] = r.version
	}
	return out
}

// batch is the good part of a response.
type batch[K comparable, V any] struct {
	up      []V
	removed []K
	taken   map[string]record[K]
	gone    []string
}

// read decodes a response against what was accepted before.
func read[K comparable, V any](l ledger[K], resp *discoverypb.DeltaDiscoveryResponse, bad rejections,
	decode func([]byte) (V, error), keyOf func(V) K,
) batch[K, V] {
	b := batch[K, V]{taken: map[string]record[K]{}}
	for _, r := range resp.GetResources() {
		name := r.GetName()
		v, err := decode(r.GetResource().GetValue())
		if err != nil {
			bad[name] = err
			continue
		}
		key := keyOf(v)
		if old, ok := l[name]; ok && old.key != key {
			bad[name] = fmt.Errorf("names %v, and named %v before", key, old.key)
			continue
		}
		b.up = append(b.up, v)
		b.taken[name] = record[K]{key: key, version: r.GetVersion()}
	}
	for _, name := range resp.GetRemovedResources() {
		if old, ok := l[name]; ok {
			b.removed = append(b.removed, old.key)
			b.gone = append(b.gone, name)
		}
	}
	return b
}

func (l ledger[K]) commit(b interface {
	records() (taken map[string]record[K], gone []string)
}) {
	taken, gone := b.records()
	for _, name := range gone {
		delete(l, name)
	}
	maps.Copy(l, taken)
}

func (b batch[K, V]) records() (taken map[string]record[K], gone []string) { return b.taken, b.gone }
