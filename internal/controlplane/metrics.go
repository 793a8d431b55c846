package controlplane

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the controller itself; those of the config stream and of the
// certificate service are theirs.
type metrics struct {
	events    *prometheus.CounterVec // by kind
	translate prometheus.Histogram
	tables    prometheus.Gauge
	writes    *prometheus.CounterVec // by kind and result
	leader    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		events: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_controller_events_total", Help: "Changes of Kubernetes objects that were seen.",
		}, []string{"kind"}),
		translate: f.NewHistogram(prometheus.HistogramOpts{
			Name: "towpath_controller_translate_seconds", Help: "Time to translate all routes and publish what changed.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		tables: f.NewGauge(prometheus.GaugeOpts{
			Name: "towpath_controller_tables", Help: "Routing tables that are published.",
		}),
		writes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_controller_writes_total", Help: "Writes to Kubernetes by the leader.",
		}, []string{"kind", "result"}),
		leader: f.NewGauge(prometheus.GaugeOpts{
			Name: "towpath_controller_leader", Help: "1 on the replica that writes to Kubernetes.",
		}),
	}
}
