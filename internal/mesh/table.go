package mesh

import (
	"hash/maphash"
	"maps"
)

// shardCount bounds what one change copies: a 256th of the entries, and the
// 2 KiB array of shards.
const shardCount = 256

var hashSeed = maphash.MakeSeed()

// table is a map of which a copy can be edited cheaply: copying the struct
// shares all shards, and until end each shard is copied when it is first
// touched. The zero table is empty.
type table[K comparable, V any] struct {
	shards *[shardCount]map[K]V
	// owned tells which shards were copied for the edit that is going on; nil
	// while there is none.
	owned *[shardCount]bool
}

// begin makes the table editable; it shares all shards with its original.
func (t *table[K, V]) begin() {
	shards := new([shardCount]map[K]V)
	if t.shards != nil {
		*shards = *t.shards
	}
	t.shards, t.owned = shards, new([shardCount]bool)
}

// end makes the table immutable again.
func (t *table[K, V]) end() { t.owned = nil }

func shardOf[K comparable](k K) int {
	return int(maphash.Comparable(hashSeed, k) % shardCount)
}

func (t *table[K, V]) get(k K) (V, bool) {
	if t.shards == nil {
		var none V
		return none, false
	}
	v, ok := t.shards[shardOf(k)][k]
	return v, ok
}

func (t *table[K, V]) set(k K, v V) {
	t.own(shardOf(k))[k] = v
}

func (t *table[K, V]) remove(k K) {
	if _, ok := t.get(k); ok {
		delete(t.own(shardOf(k)), k)
	}
}

// own returns the table's own copy of one shard, made at the first edit.
func (t *table[K, V]) own(i int) map[K]V {
	if t.owned == nil {
		t.begin()
	}
	if !t.owned[i] {
		t.owned[i] = true
		t.shards[i] = maps.Clone(t.shards[i])
		if t.shards[i] == nil {
			t.shards[i] = map[K]V{}
		}
	}
	return t.shards[i]
}

func (t *table[K, V]) values() func(yield func(V) bool) {
	shards := t.shards
	return func(yield func(V) bool) {
		if shards == nil {
			return
		}
		for _, m := range shards {
			for _, v := range m {
				if !yield(v) {
					return
				}
			}
		}
	}
}
