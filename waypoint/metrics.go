package waypoint

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/towpath-mesh/towpath/internal/mesh"
)

// metrics of the data path. Labels are bounded by the tables that are served.
type metrics struct {
	requests          *prometheus.CounterVec
	duration          *prometheus.HistogramVec
	active            prometheus.Gauge
	connects          *prometheus.CounterVec
	tunnels           *prometheus.CounterVec
	handshakeFailures prometheus.Counter
	mirrored          *prometheus.CounterVec
}

// durationBuckets are those of http.server.request.duration in the OpenTelemetry
// semantic conventions, in seconds.
var durationBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

func newMetrics(reg prometheus.Registerer) *metrics {
	labels := []string{"service_namespace", "service_name", "route_kind", "code"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_waypoint_requests_total", Help: "Requests by addressed Service, kind of route and class of status."}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_server_request_duration_seconds", Help: "Duration of requests, body included.", Buckets: durationBuckets}, labels),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_server_active_requests", Help: "Requests under way."}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_waypoint_upstream_connects_total", Help: "Connections to endpoints tried, by protocol and result."}, []string{"protocol", "result"}),
		tunnels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_waypoint_tunnels_total", Help: "Tunnels asked for by clients."}, []string{"result"}),
		handshakeFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "towpath_waypoint_handshake_failures_total", Help: "Connections to the HBONE port that never came to tunnels."}),
		mirrored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_waypoint_mirrored_requests_total", Help: "Copies of requests sent by mirror filters."}, []string{"result"}),
	}
	reg.MustRegister(m.requests, m.duration, m.active, m.connects, m.tunnels, m.handshakeFailures, m.mirrored)
	return m
}

// request counts a request that has ended.
func (m *metrics) request(x *exchange) {
	class := "none"
	if s := x.record.Status; s >= 100 {
		class = strconv.Itoa(s/100) + "xx"
	}
	v := x.c.visitor
	labels := []string{v.service.Namespace, v.service.Name, x.routeKind, class}
	m.requests.WithLabelValues(labels...).Inc()
	m.duration.WithLabelValues(labels...).Observe(x.record.Duration.Seconds())
}

func (m *metrics) connected(tunnel mesh.Tunnel, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.connects.WithLabelValues(tunnel.String(), result).Inc()
}

// forget drops the series of Services that are no longer served.
func (m *metrics) forget(gone []mesh.ServiceKey) {
	for _, k := range gone {
		labels := prometheus.Labels{"service_namespace": k.Namespace, "service_name": k.Name}
		m.requests.DeletePartialMatch(labels)
		m.duration.DeletePartialMatch(labels)
	}
}
