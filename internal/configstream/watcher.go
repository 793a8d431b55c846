package configstream

import (
	"maps"
	"slices"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// watcher is one stream's place in the store. The store's lock guards its
// fields: a stream changes its own watcher below a read lock, others look at it
// below a write lock only.
type watcher struct {
	wake chan struct{}
	view view
	// following tells the kinds that were collected once, cursor how far.
	following [kindCount]bool
	cursor    [kindCount]uint64
	// sent holds, of the kinds of which the view is a part, the names that the
	// client may have; the others need no such set.
	sent [kindCount]map[string]struct{}
	// withheld are the names that only a capability is missing for.
	withheld map[string]struct{}
	// behind is set when the store has forgotten what the watcher lacks.
	behind bool
}

// view is what a client may see.
type view struct {
	peer         Peer
	capabilities []string
}

func newWatcher(v view) *watcher {
	return &watcher{wake: make(chan struct{}, 1), view: v, withheld: map[string]struct{}{}}
}

// poke wakes the stream; it never blocks.
func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// covers reports whether the role may see all of the kind.
func (v view) covers(k kind) bool {
	return k != kindTable && v.peer.Role != RoleNodeAgent
}

// permits reports whether the role may see the resource.
func (v view) permits(k kind, r *resource) bool {
	switch {
	case v.covers(k):
		return true
	case k == kindTable:
		return v.peer.Role == RoleProxy && r.proxy == v.peer.Proxy
	default:
		return k == kindWorkload && r.node == v.peer.Node
	}
}

// sees reports whether the client gets the resource.
func (w *watcher) sees(k kind, e *entry) bool {
	if e.wire == nil || !w.view.permits(k, &e.resource) {
		delete(w.withheld, e.name)
		return false
	}
	if !hasAll(w.view.capabilities, e.needs) {
		w.withheld[e.name] = struct{}{}
		return false
	}
	delete(w.withheld, e.name)
	return true
}

// delta is what a client lacks of one kind.
type delta struct {
	up      []*discoverypb.Resource
	removed []string
	// first asks for a response even when there is nothing to say.
	first bool
}

// collect returns what the watcher lacks of the kinds it follows, all at the
// same moment, and counts it as sent. starts are the kinds to follow from now
// on, with the versions that the client already has.
func (s *store) collect(w *watcher, starts map[kind]map[string]string) (deltas [kindCount]delta, at uint64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if w.behind {
		return deltas, 0, errBehind
	}
	for k := range deltas {
		kind := kind(k)
		if have, ok := starts[kind]; ok {
			deltas[k] = s.shelves[k].difference(w, kind, have)
			w.following[k] = true
		} else if w.following[k] {
			deltas[k] = s.shelves[k].since(w, kind, w.cursor[k])
		}
		w.cursor[k] = s.seq
	}
	return deltas, s.seq, nil
}

// difference compares everything the watcher may see with what the client has;
// it uses have up.
func (sh *shelf) difference(w *watcher, k kind, have map[string]string) delta {
	d := delta{first: true}
	if !w.view.covers(k) {
		w.sent[k] = map[string]struct{}{}
	}
	for e := sh.root.next; e != &sh.root; e = e.next {
		if !w.sees(k, e) {
			continue
		}
		if w.sent[k] != nil {
			w.sent[k][e.name] = struct{}{}
		}
		if have[e.name] != e.wire.GetVersion() {
			d.up = append(d.up, e.wire)
		}
		delete(have, e.name)
	}
	d.removed = slices.Sorted(maps.Keys(have))
	return d
}

// since walks back through the changes that the watcher has not seen.
func (sh *shelf) since(w *watcher, k kind, cursor uint64) delta {
	var d delta
	for e := sh.root.prev; e != &sh.root && e.seq > cursor; e = e.prev {
		_, had := w.sent[k][e.name]
		switch {
		case w.sees(k, e):
			d.up = append(d.up, e.wire)
			if w.sent[k] != nil {
				w.sent[k][e.name] = struct{}{}
			}
		case had || w.sent[k] == nil:
			d.removed = append(d.removed, e.name)
			delete(w.sent[k], e.name)
		}
	}
	slices.Reverse(d.up)
	slices.Reverse(d.removed)
	return d
}

// alive reports, by its error, whether the watcher was given up.
func (s *store) alive(w *watcher) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if w.behind {
		return errBehind
	}
	return nil
}
