package svid

import (
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 500 * time.Millisecond
	backoffMax   = 60 * time.Second
)

// renewalDelay says how long to keep a certificate of which life is left: half
// of it, give or take a tenth of the whole, so that certificates issued
// together are not renewed together. At least 40 % of the life remains for
// renewal to succeed in. u is uniform in [0, 1).
func renewalDelay(life time.Duration, u float64) time.Duration {
	return time.Duration(float64(life) * (0.4 + 0.2*u))
}

// backoff says how long to wait after the n-th failure in a row (from 1): 0.5 s
// doubled up to 60 s, give or take a fifth. u is uniform in [0, 1).
func backoff(n int, u float64) time.Duration {
	d := backoffMax
	// Eight doublings pass the ceiling.
	if n <= 8 {
		d = min(backoffFirst<<(n-1), backoffMax)
	}
	return time.Duration(float64(d) * (0.8 + 0.4*u))
}

func uniform() float64 { return rand.Float64() }
