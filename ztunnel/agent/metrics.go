package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the agent. Names of pods are not among the labels.
type metrics struct {
	failures *prometheus.CounterVec
	duration prometheus.Histogram
	starts   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, h *Holder) *metrics {
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_agent_enrolment_failures_total",
			Help: "Attempts to enrol a pod or to keep it enrolled that failed, by reason.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "towpath_agent_enrolment_seconds",
			Help:    "Time from when a pod's network namespace was known until its traffic was captured.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "towpath_agent_pod_starts_total",
			Help: "Pods whose start was held until the agent let it go on, by result.",
		}, []string{"result"}),
	}
	count := func(name, help string, f func(PodStatus) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			n := 0
			for _, p := range h.Status() {
				n += f(p)
			}
			return float64(n)
		})
	}
	if r != nil {
		r.MustRegister(m.failures, m.duration, m.starts,
			count("towpath_agent_pods_captured", "Pods whose traffic is redirected to ztunnel.", func(p PodStatus) int { return one(p.Captured) }),
			count("towpath_agent_pods_waiting", "Pods whose traffic is redirected while no ztunnel has them.", func(p PodStatus) int { return one(p.Captured && !p.Served) }),
			count("towpath_agent_rules_repaired", "Repairs of redirect rules in the pods that are held.", func(p PodStatus) int { return p.Repairs }),
		)
	}
	return m
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) failed(reason string)        { m.failures.WithLabelValues(reason).Inc() }
func (m *metrics) enrolled(took time.Duration) { m.duration.Observe(took.Seconds()) }

func (m *metrics) admitted(err error) {
	if err != nil {
		m.starts.WithLabelValues("refused").Inc()
		return
	}
	m.starts.WithLabelValues("admitted").Inc()
}
