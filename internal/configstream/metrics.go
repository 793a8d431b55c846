package configstream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type serverMetrics struct {
	streams *prometheus.GaugeVec   // by role
	sent    *prometheus.CounterVec // resources and removals, by type
	nacks   *prometheus.CounterVec // by type
	dropped *prometheus.CounterVec // by type
	refused prometheus.Counter
	behind  prometheus.Counter
}

func newServerMetrics(reg prometheus.Registerer) *serverMetrics {
	f := promauto.With(reg)
	return &serverMetrics{
		streams: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "towpath_config_streams", Help: "Config streams that are open.",
		}, []string{"role"}),
		sent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_config_resources_sent_total", Help: "Resources and removals sent to clients.",
		}, []string{"type"}),
		nacks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_config_nacks_received_total", Help: "Responses of which a client refused a part.",
		}, []string{"type"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_config_unencodable_total", Help: "Published values that have no form on the wire.",
		}, []string{"type"}),
		refused: f.NewCounter(prometheus.CounterOpts{
			Name: "towpath_config_callers_refused_total", Help: "Callers whose token was not accepted.",
		}),
		behind: f.NewCounter(prometheus.CounterOpts{
			Name: "towpath_config_streams_behind_total", Help: "Streams closed because they were too far behind.",
		}),
	}
}

type clientMetrics struct {
	connected prometheus.Gauge
	updates   *prometheus.CounterVec // by type
	nacks     *prometheus.CounterVec // by type
}

// newClientMetrics registers the client's metrics; lost tells since when the
// config may be out of date, the zero time for "it is not".
func newClientMetrics(reg prometheus.Registerer, lost func() time.Time) *clientMetrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "towpath_config_age_seconds",
		Help: "Seconds for which the config may have been out of date: 0 while the stream is up.",
	}, func() float64 {
		if t := lost(); !t.IsZero() {
			return time.Since(t).Seconds()
		}
		return 0
	})
	return &clientMetrics{
		connected: f.NewGauge(prometheus.GaugeOpts{
			Name: "towpath_config_connected", Help: "1 while the controller streams config to this process.",
		}),
		updates: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_config_updates_total", Help: "Resources and removals taken over from the controller.",
		}, []string{"type"}),
		nacks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_config_nacks_total", Help: "Resources refused.",
		}, []string{"type"}),
	}
}
