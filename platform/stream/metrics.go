package stream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows    *prometheus.CounterVec
	gaps    *prometheus.CounterVec
	lost    prometheus.Counter
	commits prometheus.Histogram
	batch   prometheus.Histogram
}

func newMetrics(r *prometheus.Registry) metrics {
	m := metrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_stream_rows_total", Help: "Rows that this process wrote.",
		}, []string{"stream"}),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_stream_gaps_total", Help: "Times that missed rows had to be read from the database.",
		}, []string{"stream"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lyceum_stream_unpublished_total", Help: "Commits whose rows the bus did not take.",
		}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lyceum_stream_commit_seconds", Help: "Time of a group commit.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lyceum_stream_commit_rows", Help: "Rows of a group commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
	}
	if r != nil {
		r.MustRegister(m.rows, m.gaps, m.lost, m.commits, m.batch)
	}
	return m
}

func (m metrics) committed(batch []*Ticket, took time.Duration) {
	rows := 0
	for _, t := range batch {
		for _, e := range t.entries {
			m.rows.WithLabelValues(e.Stream.spec.Name).Inc()
			rows++
		}
	}
	m.commits.Observe(took.Seconds())
	m.batch.Observe(float64(rows))
}

func (m metrics) gap(st *Stream) { m.gaps.WithLabelValues(st.spec.Name).Inc() }

func (m metrics) unpublished() { m.lost.Inc() }
