package stream

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rows        *prometheus.CounterVec
	gaps        *prometheus.CounterVec
	unpublished prometheus.Counter
	commits     prometheus.Histogram
	batch       prometheus.Histogram

	delivery  *prometheus.HistogramVec
	roundTrip func(time.Duration)
}

func newMetrics(r *prometheus.Registry) metrics {
	m := metrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_stream_rows_total", Help: "Rows that this process wrote.",
		}, []string{"stream", "shard"}),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_stream_gaps_total", Help: "Times that missed rows had to be read from the database.",
		}, []string{"stream"}),
		unpublished: prometheus.NewCounter(prometheus.CounterOpts{
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
	m.delivery = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lyceum_stream_delivery_seconds", Help: "Time from the publication of rows by their owner to their arrival in this process.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"stream"})
	trips := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "lyceum_bus_roundtrip_seconds", Help: "Time of a message to Redis and back behind all that came before it.",
		Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	})
	m.roundTrip = func(d time.Duration) { trips.Observe(d.Seconds()) }
	if r != nil {
		r.MustRegister(m.rows, m.gaps, m.unpublished, m.commits, m.batch, m.delivery, trips)
	}
	return m
}

func (m metrics) observeCommit(batch []*Ticket, took time.Duration) {
	rows := 0
	for _, t := range batch {
		for _, e := range t.entries {
			m.rows.WithLabelValues(e.Stream.spec.Name, strconv.Itoa(e.Shard)).Inc()
			rows++
		}
	}
	m.commits.Observe(took.Seconds())
	m.batch.Observe(float64(rows))
}

func (m metrics) countGap(st *Stream) { m.gaps.WithLabelValues(st.spec.Name).Inc() }

func (m metrics) countUnpublished() { m.unpublished.Inc() }

var (
	positionDesc = prometheus.NewDesc("lyceum_stream_position", "Last position of a shard that this process has seen.",
		[]string{"stream", "shard"}, nil)
	behindDesc = prometheus.NewDesc("lyceum_stream_behind_rows", "Rows of a shard that are known to exist and not seen here yet.",
		[]string{"stream", "shard"}, nil)
	ownedDesc  = prometheus.NewDesc("lyceum_stream_owned", "1 for a shard that this process owns.", []string{"stream", "shard"}, nil)
	queuedDesc = prometheus.NewDesc("lyceum_stream_queued", "Writes of this process that are not decided.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Streams) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{positionDesc, behindDesc, ownedDesc, queuedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: positions and owners are read when somebody asks.
func (s *Streams) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, st := range s.opened {
		for i := range st.shards {
			owned := 0.0
			if st.Owns(i) {
				owned = 1
			}
			shard := strconv.Itoa(i)
			if st.IsReceived() { // where the rows are not received they are not late
				st.mu.Lock()
				seen, target := st.shards[i].seen, st.shards[i].target
				st.mu.Unlock()
				gauge(positionDesc, float64(seen), st.spec.Name, shard)
				gauge(behindDesc, float64(max(0, target-seen)), st.spec.Name, shard)
			}
			gauge(ownedDesc, owned, st.spec.Name, shard)
		}
	}
	s.mu.Lock()
	queued := s.queued
	s.mu.Unlock()
	gauge(queuedDesc, float64(queued))
}
