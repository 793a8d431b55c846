package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A reason says why a request was refused; the closed set of a metric's label.
type reason string

const (
	reasonToken       reason = "token"       // no, bad or unbound token
	reasonRate        reason = "rate"        // the node asks too often
	reasonRequest     reason = "request"     // malformed
	reasonUnknownPod  reason = "unknown_pod" // no such pod, perhaps not yet
	reasonDenied      reason = "denied"      // not this caller's to ask for
	reasonKey         reason = "key"         // key of another identity
	reasonAuthority   reason = "authority"   // the signer failed
	reasonUnavailable reason = "unavailable" // could not be decided
)

var reasons = []reason{reasonToken, reasonRate, reasonRequest, reasonUnknownPod, reasonDenied, reasonKey,
	reasonAuthority, reasonUnavailable}

// code is what the proxy is told.
func (r reason) code() codes.Code {
	switch r {
	case reasonToken:
		return codes.Unauthenticated
	case reasonRate:
		return codes.ResourceExhausted
	case reasonRequest:
		return codes.InvalidArgument
	case reasonUnknownPod:
		return codes.NotFound
	case reasonDenied, reasonKey:
		return codes.PermissionDenied
	case reasonAuthority:
		return codes.Internal
	default:
		return codes.Unavailable
	}
}

type refusal struct {
	reason reason
	err    error
}

func refuse(r reason, err error) error { return &refusal{reason: r, err: err} }

func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", r.reason, r.err) }
func (r *refusal) Unwrap() error { return r.err }

type metrics struct {
	issued  prometheus.Counter
	refused *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	auto := promauto.With(reg)
	m := metrics{
		issued: auto.NewCounter(prometheus.CounterOpts{
			Name: "towpath_ca_certificates_issued_total",
			Help: "Certificates issued to proxies.",
		}),
		refused: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_ca_requests_refused_total",
			Help: "Certificate requests refused, by reason.",
		}, []string{"reason"}),
	}
	for _, r := range reasons {
		m.refused.WithLabelValues(string(r))
	}
	return m
}

func (s *Service) issued(ctx context.Context, i *issuance) {
	s.metrics.issued.Inc()
	s.log.LogAttrs(ctx, slog.LevelInfo, "certificate issued",
		slog.Any("caller", i.caller),
		slog.String("pod_uid", i.podUID),
		slog.String("id", i.id.String()),
		slog.String("serial", fmt.Sprintf("%x", i.leaf.SerialNumber)),
		slog.Time("not_after", i.leaf.NotAfter),
	)
}

// refused records a refusal and makes the answer of it. The answer tells the
// reason but not the details, which may speak of other people's pods.
func (s *Service) refused(ctx context.Context, i *issuance, err error) error {
	r := reasonUnavailable
	if refusal := (*refusal)(nil); errors.As(err, &refusal) {
		r = refusal.reason
	}
	s.metrics.refused.WithLabelValues(string(r)).Inc()
	s.log.LogAttrs(ctx, slog.LevelWarn, "certificate refused",
		slog.String("reason", string(r)),
		slog.Any("caller", i.caller),
		slog.String("pod_uid", i.podUID),
		slog.String("id", i.id.String()),
		slog.Any("error", err),
	)
	return status.Errorf(r.code(), "certificate refused: %s", r)
}
