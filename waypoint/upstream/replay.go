package upstream

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// maxReplay is how much of a request's body is kept for another attempt.
const maxReplay = 64 << 10

var (
	errAttemptOver = errors.New("attempt is over")
	errNoReplay    = errors.New("the beginning of the body is gone")
)

// replay is a body that can be read from its beginning again, as long as not
// more than maxReplay was read of it. What an attempt that was given up is still
// reading is not lost: it is kept for the next.
type replay struct {
	mu   sync.Mutex
	src  io.Reader
	kept []byte
	end  error // of src
	// owner is the attempt that has read more than is kept, and can be the only
	// one to read on; nil as long as all is kept.
	owner atomic.Pointer[attemptBody]
}

func newReplay(src io.Reader) *replay { return &replay{src: src} }

// possible reports whether another attempt can read it all.
func (r *replay) possible() bool { return r == nil || r.owner.Load() == nil }

// attempt returns a reader from the beginning.
func (r *replay) attempt() *attemptBody { return &attemptBody{r: r} }

// attemptBody is the body as one attempt reads it.
type attemptBody struct {
	r    *replay
	at   int
	over atomic.Bool
}

// stop makes reads fail: the attempt was given up.
func (b *attemptBody) stop() { b.over.Store(true) }

func (b *attemptBody) Read(p []byte) (int, error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	owner := r.owner.Load()
	switch {
	case b.over.Load():
		return 0, errAttemptOver
	case owner != nil && owner != b:
		return 0, errNoReplay
	case owner == nil && b.at < len(r.kept):
		n := copy(p, r.kept[b.at:])
		b.at += n
		return n, nil
	case r.end != nil:
		return 0, r.end
	}
	n, err := r.src.Read(p)
	r.end = err
	switch {
	case owner == b:
	case len(r.kept)+n > maxReplay:
		r.owner.Store(b)
		r.kept = nil
	default:
		r.kept = append(r.kept, p[:n]...)
		b.at += n
	}
	return n, err
}
