package controlplane

import "time"

// hold is a hold-off with a ceiling: it is over after a pause between touches,
// or when the first touch is too long ago.
type hold struct {
	quiet, ceiling time.Duration
	timer          *time.Timer
	armed          bool
	deadline       time.Time // of the armed hold-off
}

func newHold(quiet, ceiling time.Duration) *hold {
	h := &hold{quiet: quiet, ceiling: ceiling, timer: time.NewTimer(0)}
	h.timer.Stop()
	return h
}

func (h *hold) touch(now time.Time) {
	if !h.armed {
		h.armed, h.deadline = true, now.Add(h.ceiling)
	}
	h.timer.Reset(min(h.quiet, h.deadline.Sub(now)))
}

// over delivers when the hold-off has ended; call done then.
func (h *hold) over() <-chan time.Time { return h.timer.C }

func (h *hold) done() { h.armed = false }

func (h *hold) stop() { h.timer.Stop() }
