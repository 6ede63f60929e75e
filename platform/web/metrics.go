package web

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series of all routes. Statuses are counted by class, so that one route has at most six series.
type metrics struct {
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	waiting  prometheus.Gauge
}

func newMetrics(registry *prometheus.Registry) *metrics {
	labels := []string{"route", "role"}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lyceum_http_request_duration_seconds", Help: "Time from a request's head to its answer's end, by route, role and class of status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30},
		}, append(labels, "code")),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lyceum_http_requests_in_flight", Help: "Requests being served now, by route and role.",
		}, labels),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lyceum_http_requests_waiting", Help: "Requests that wait until others of the same user, or of the same address, are done.",
		}),
	}
	if registry != nil {
		registry.MustRegister(m.duration, m.inflight, m.waiting)
	}
	return m
}

// series are the metrics of one route, found once.
type series struct {
	metrics     *metrics
	route, role string
	inflight    prometheus.Gauge
	classes     [6]atomic.Pointer[prometheus.Observer]
}

func (m *metrics) series(route, role string) *series {
	return &series{metrics: m, route: route, role: role, inflight: m.inflight.WithLabelValues(route, role)}
}

func (s *series) observe(status int, took time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	known := s.classes[class].Load()
	if known == nil {
		name := [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}[class]
		observer := s.metrics.duration.WithLabelValues(s.route, s.role, name)
		known = &observer
		s.classes[class].Store(known)
	}
	(*known).Observe(took.Seconds())
}
