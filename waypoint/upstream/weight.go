package upstream

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// Weights chooses indices in proportion to weights. It is safe for concurrent
// use; the zero Weights chooses nothing.
type Weights struct {
	upTo []uint64 // running sums
	next atomic.Uint64
}

// NewWeights starts at a random place, so that many proxies with the same
// weights do not choose in step.
func NewWeights(weights []uint32) *Weights {
	w := &Weights{upTo: make([]uint64, len(weights))}
	var sum uint64
	for i, n := range weights {
		sum += uint64(n)
		w.upTo[i] = sum
	}
	w.next.Store(rand.Uint64())
	return w
}

// golden is 2^64 divided by the golden ratio, odd. Its multiples are spread
// more evenly than random numbers: the share of each weight is right within a
// few requests after any number of them, without a period that clients could
// fall into step with.
const golden = 0x9E3779B97F4A7C15

// Next returns the next index, -1 if there is no weight at all.
func (w *Weights) Next() int {
	if len(w.upTo) == 0 || w.upTo[len(w.upTo)-1] == 0 {
		return -1
	}
	at, _ := bits.Mul64(w.next.Add(1)*golden, w.upTo[len(w.upTo)-1])
	for i, end := range w.upTo {
		if at < end {
			return i
		}
	}
	return -1
}
