package ztunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/towpath-mesh/towpath/internal/hbone"
	"github.com/towpath-mesh/towpath/internal/mesh"
)

// direction is the way a connection goes, from the pod's point of view. It is a
// label of every metric and a field of every record.
type direction string

const (
	outbound  direction = "outbound"  // the pod is the client
	inbound   direction = "inbound"   // through a tunnel
	plaintext direction = "plaintext" // inbound outside a tunnel
)

// security is the label connection_security_policy.
func security(t mesh.Tunnel) string {
	if t == mesh.TunnelHBONE {
		return "mutual_tls"
	}
	return "none"
}

// connectBuckets, in seconds: from a tunnel on a pooled connection nearby to
// the connect timeout.
var connectBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// metrics of all connections. Every label has a few constant values: neither
// pods nor services appear in them, so that their number does not grow.
type metrics struct {
	opened, closed, failed *prometheus.CounterVec
	sent, received         *prometheus.CounterVec
	open                   *prometheus.GaugeVec
	connect                *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const d, s = "direction", "connection_security_policy"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "towpath_ztunnel_" + name, Help: help}, labels)
	}
	m := &metrics{
		opened:   counter("connections_opened_total", "Connections that reached their destination.", d, s),
		closed:   counter("connections_closed_total", "Connections that were open and have ended, by how.", d, s, "result"),
		failed:   counter("connections_failed_total", "Connections that were refused or did not reach their destination, by why.", d, s, "reason"),
		sent:     counter("sent_bytes_total", "Bytes from client to server.", d, s),
		received: counter("received_bytes_total", "Bytes from server to client.", d, s),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "towpath_ztunnel_connections_open", Help: "Connections that are open."}, []string{d, s}),
		connect: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "towpath_ztunnel_connect_duration_seconds", Help: "From accepting a connection to having reached its destination.",
			Buckets: connectBuckets}, []string{d, s}),
	}
	reg.MustRegister(m.opened, m.closed, m.failed, m.sent, m.received, m.open, m.connect)
	return m
}

// result sorts the error with which an open connection has ended.
func result(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, errCut):
		return "cut"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	}
	return "error"
}

// failure sorts the error of a connection that never opened: a Refusal's own
// word, or what went wrong on the way.
func failure(err error) string {
	var refusal *Refusal
	var tunnel *hbone.ConnectError
	var status *hbone.StatusError
	var netErr net.Error
	switch {
	case errors.As(err, &refusal):
		return string(refusal.Why)
	case errors.Is(err, hbone.ErrDenied):
		return "denied"
	case errors.Is(err, hbone.ErrUnavailable):
		return "unavailable"
	case errors.As(err, &status):
		return "rejected"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	case errors.As(err, &tunnel) && tunnel.Stage == hbone.StageTLS:
		return string(WhyHandshakeFailure)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
		return "gone"
	}
	return "unreachable"
}
