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
	labels := []string{"route", "role", "from"}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lyceum_http_request_duration_seconds", Help: "Time from a request's head to its answer's end, by route, role, class of " +
				"status, and who sent it: a client, or another process that passed it on.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30},
		}, append(labels, "code")),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lyceum_http_requests_in_flight", Help: "Requests being served now, by route, role, and who sent them: clients, or other " +
				"processes that passed them on.",
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
	metrics           *metrics
	route, role, from string
	inflight          prometheus.Gauge
	classes           [6]atomic.Pointer[prometheus.Observer]
}

// Values of the label from. The process that passes a request on counts it too: those from clients count each request once.
const (
	fromClient  = "client"
	fromProcess = "process"
)

func (m *metrics) series(route, role, from string) *series {
	return &series{metrics: m, route: route, role: role, from: from, inflight: m.inflight.WithLabelValues(route, role, from)}
}

func (s *series) observe(status int, took time.Duration) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	known := s.classes[class].Load()
	if known == nil {
		name := [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}[class]
		observer := s.metrics.duration.WithLabelValues(s.route, s.role, s.from, name)
		known = &observer
		s.classes[class].Store(known)
	}
	(*known).Observe(took.Seconds())
}
