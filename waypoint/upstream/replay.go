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
// more than maxReplay was read of it and no attempt was given up in the middle
// of a Read.
type replay struct {
	src io.ReadCloser

	mu   sync.Mutex // held while src is read
	kept []byte
	end  error // of src

	reading atomic.Bool
	lost    atomic.Bool // no further attempt can be made
	// owner is the attempt that has read more than is kept, and can be the only
	// one to read on; nil as long as all is kept.
	owner *attemptBody
}

func newReplay(src io.ReadCloser) *replay { return &replay{src: src} }

// fill reads a body that is known to be short before the first attempt, so that
// another one is possible whenever that fails. The error is met again when an
// attempt reads.
func (r *replay) fill(length int64) {
	if length <= 0 || length > maxReplay {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.end = make([]byte, 0, length), nil
	buf := make([]byte, length)
	for r.end == nil && len(r.kept) <= maxReplay {
		var n int
		n, r.end = r.src.Read(buf)
		r.kept = append(r.kept, buf[:n]...)
	}
}

// possible reports whether another attempt can read it all.
func (r *replay) possible() bool { return r == nil || !r.lost.Load() }

// attempt returns a reader from the beginning.
func (r *replay) attempt() *attemptBody { return &attemptBody{r: r} }

// attemptBody is the body as one attempt reads it.
type attemptBody struct {
	r    *replay
	at   int
	over atomic.Bool
}

// Close ends the attempt's reading, also one under way.
func (b *attemptBody) Close() error {
	if b.over.Swap(true) || !b.r.reading.Load() {
		return nil
	}
	b.r.lost.Store(true)
	return b.r.src.Close()
}

func (b *attemptBody) Read(p []byte) (int, error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case b.over.Load():
		return 0, errAttemptOver
	case r.owner != nil && r.owner != b:
		return 0, errNoReplay
	case r.owner == nil && b.at < len(r.kept):
		n := copy(p, r.kept[b.at:])
		b.at += n
		return n, nil
	case r.end != nil:
		return 0, r.end
	}
	r.reading.Store(true)
	defer r.reading.Store(false)
	if b.over.Load() { // again: either Close sees reading, or this sees over
		return 0, errAttemptOver
	}
	n, err := r.src.Read(p)
	b.keep(p[:n], err)
	return n, err
}

// keep remembers what was read, or that it was too much for that.
func (b *attemptBody) keep(p []byte, err error) {
	r := b.r
	r.end = err
	switch {
	case r.owner == b:
	case len(r.kept)+len(p) > maxReplay:
		r.owner, r.kept = b, nil
		r.lost.Store(true)
	default:
		r.kept = append(r.kept, p...)
		b.at += len(p)
	}
}
