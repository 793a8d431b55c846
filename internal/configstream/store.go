package configstream

import (
	"errors"
	"sync"
)

// store holds the newest value of every resource, in the order of their last
// change. A watcher remembers how far along that order it is: what lies beyond
// is its set of dirty keys, each with its newest value only. Publishing costs
// the same for any number of watchers, and a slow one costs nothing.
type store struct {
	mu       sync.RWMutex
	seq      uint64 // counts publications that changed something
	shelves  [kindCount]shelf
	watchers map[*watcher]struct{}
	// maxGone bounds the tombstones kept for slow watchers; beyond it the
	// slowest have to start again.
	maxGone int
}

// shelf holds the resources of one kind, and the tombstones of those removed.
type shelf struct {
	entries map[string]*entry
	// root closes the ring of entries: root.next changed longest ago, root.prev
	// last.
	root entry
	gone int
}

// entry is a place in the order of changes. A nil wire is a tombstone.
type entry struct {
	resource
	name       string
	seq        uint64
	prev, next *entry
}

// change is a publication of one kind.
type change struct {
	up      []resource
	removed []string
}

func newStore() *store {
	s := &store{watchers: map[*watcher]struct{}{}, maxGone: 1 << 16}
	for k := range s.shelves {
		sh := &s.shelves[k]
		sh.entries = map[string]*entry{}
		sh.root.prev, sh.root.next = &sh.root, &sh.root
	}
	return s
}

// publish takes over changes of all kinds at once. Values that are what they
// were change nothing.
func (s *store) publish(changes [kindCount]change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Tombstones of this publication are not held against anybody yet.
	for k := range s.shelves {
		s.bury(kind(k))
	}
	next, changed := s.seq+1, false
	for k, c := range changes {
		changed = s.shelves[k].apply(c, next) || changed
	}
	if !changed {
		return
	}
	s.seq = next
	for w := range s.watchers {
		w.poke()
	}
}

// apply takes over one publication. A name that occurs among the new values is
// not removed.
func (sh *shelf) apply(c change, seq uint64) (changed bool) {
	stays := map[string]bool{}
	if len(c.removed) > 0 {
		for _, r := range c.up {
			stays[r.wire.GetName()] = true
		}
	}
	for _, name := range c.removed {
		if e := sh.entries[name]; e == nil || e.wire == nil || stays[name] {
			continue
		}
		sh.put(name, resource{}, seq)
		changed = true
	}
	for _, r := range c.up {
		e := sh.entries[r.wire.GetName()]
		if e != nil && e.wire.GetVersion() == r.wire.GetVersion() {
			continue
		}
		sh.put(r.wire.GetName(), r, seq)
		changed = true
	}
	return changed
}

// put makes r the newest value under the name and the last in order.
func (sh *shelf) put(name string, r resource, seq uint64) {
	e := sh.entries[name]
	if e == nil {
		e = &entry{name: name}
		sh.entries[name] = e
	} else {
		if e.wire == nil {
			sh.gone--
		}
		e.unlink()
	}
	if r.wire == nil {
		sh.gone++
	}
	e.resource, e.seq = r, seq
	e.prev, e.next = sh.root.prev, &sh.root
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}

// bury drops the tombstones that every watcher has passed. It works only when
// there are many, so that a removal costs little on average.
func (s *store) bury(k kind) {
	sh := &s.shelves[k]
	if sh.gone <= 256+len(sh.entries)/2 {
		return
	}
	for sh.drop(s.slowest(k)); sh.gone > max(s.maxGone, len(sh.entries)/2); sh.drop(s.slowest(k)) {
		if !s.evict(k) {
			return
		}
	}
}

// drop removes the tombstones up to and including seq.
func (sh *shelf) drop(seq uint64) {
	for e := sh.root.next; e != &sh.root && e.seq <= seq; e = e.next {
		if e.wire == nil {
			e.unlink()
			delete(sh.entries, e.name)
			sh.gone--
		}
	}
}

// slowest returns how far every watcher of the kind has come.
func (s *store) slowest(k kind) uint64 {
	seq := s.seq
	for w := range s.watchers {
		if w.following[k] && !w.behind {
			seq = min(seq, w.cursor[k])
		}
	}
	return seq
}

// evict gives up the slowest watchers of the kind.
func (s *store) evict(k kind) bool {
	seq, found := s.slowest(k), false
	for w := range s.watchers {
		if w.following[k] && !w.behind && w.cursor[k] == seq && seq < s.seq {
			w.behind, found = true, true
			w.poke()
		}
	}
	return found
}

func (s *store) join(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
}

func (s *store) leave(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// current returns the newest change of each kind.
func (s *store) current() (seqs [kindCount]uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k := range s.shelves {
		seqs[k] = s.shelves[k].root.prev.seq
	}
	return seqs
}

var errBehind = errors.New("too far behind: start again")
