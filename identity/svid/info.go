package svid

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Info describes one identity held, for people.
type Info struct {
	ID spiffeid.ID `json:"id"`
	// Serial in hexadecimal, NotBefore and NotAfter are those of the current
	// certificate; zero while there is none. NotBefore lies a little before the
	// moment of issue.
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// Bundle is the sequence of the trust bundle in use.
	Bundle uint64 `json:"bundle"`
	// Pods are the UIDs of the pods held; an empty one is the process's own.
	Pods []string `json:"pods"`
	// LastError is why the last attempt failed; empty if it did not.
	LastError string `json:"lastError,omitempty"`
}

// Certificates lists what is held, ordered by identity.
func (m *Manager) Certificates() []Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Info, 0, len(m.entries))
	for _, e := range m.entries {
		i := Info{ID: e.id, Pods: slices.Clone(e.pods)}
		if c := e.store.Peek(); c != nil {
			i.Serial, i.NotBefore, i.NotAfter, i.Bundle = c.Serial(), c.Leaf().NotBefore, c.NotAfter(), c.Bundle().Sequence()
		}
		if e.lastErr != nil {
			i.LastError = e.lastErr.Error()
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return out
}

// A failure says why an attempt failed; the closed set of a metric's label.
type failure string

const (
	failUnavailable failure = "unavailable" // nobody there, or too slow
	failRefused     failure = "refused"     // the authority said no
	failThrottled   failure = "throttled"   // the authority said: not so often
	failInvalid     failure = "invalid"     // the answer cannot be used
	failOther       failure = "other"
)

var failures = []failure{failUnavailable, failRefused, failThrottled, failInvalid, failOther}

func failureOf(err error) failure {
	switch {
	case errors.Is(err, ErrInvalidAnswer):
		return failInvalid
	case errors.Is(err, context.DeadlineExceeded):
		return failUnavailable
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return failUnavailable
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.InvalidArgument:
		return failRefused
	case codes.ResourceExhausted:
		return failThrottled
	default:
		return failOther
	}
}

type metrics struct {
	issued   prometheus.Counter
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, m *Manager) metrics {
	auto := promauto.With(reg)
	out := metrics{
		issued: auto.NewCounter(prometheus.CounterOpts{
			Name: "towpath_svid_issued_total",
			Help: "Certificates received from the authority.",
		}),
		failures: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_svid_failures_total",
			Help: "Failed attempts to get a certificate, by reason.",
		}, []string{"reason"}),
	}
	for _, f := range failures {
		out.failures.WithLabelValues(string(f))
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "towpath_svid_seconds_to_expiry",
		Help: "Life left in the certificate that expires first; negative once it has, NaN if there is none.",
	}, m.secondsToExpiry)
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "towpath_svid_waiting",
		Help: "Identities held that have no certificate yet.",
	}, m.waiting)
	return out
}

func (m *Manager) secondsToExpiry() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	least := math.NaN()
	for _, e := range m.entries {
		c := e.store.Peek()
		if c == nil {
			continue
		}
		if s := time.Until(c.NotAfter()).Seconds(); math.IsNaN(least) || s < least {
			least = s
		}
	}
	return least
}

func (m *Manager) waiting() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, e := range m.entries {
		if e.store.Peek() == nil {
			n++
		}
	}
	return float64(n)
}
