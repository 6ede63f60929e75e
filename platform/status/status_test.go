package status

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/prometheus/client_golang/prometheus"
)

func TestQuantile(t *testing.T) {
	h := Histogram{Bounds: []float64{.1, .2, .4}, Counts: []uint64{10, 30, 40}, Count: 40}
	for q, want := range map[float64]float64{0: 0, .25: .1, .5: .15, .75: .2, 1: .4} {
		if got := h.Quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %g: expected %g, found %g", q, want, got)
		}
	}
	if (Histogram{}).Quantile(.5) != 0 {
		t.Error("a quantile of nothing")
	}
	above := Histogram{Bounds: []float64{.1}, Counts: []uint64{0}, Count: 3}
	if above.Quantile(.5) != .1 {
		t.Errorf("above the last bound: %g", above.Quantile(.5))
	}
}

// What was observed in an interval is what was observed in all, less what was observed before.
func TestMinusUndoesPlus(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bounds := []float64{.01, .1, 1}
		make := func(name string) Histogram {
			h := Histogram{Bounds: bounds}
			for i := range bounds {
				h.Count += rapid.Uint64Range(0, 100).Draw(t, name)
				h.Counts = append(h.Counts, h.Count)
				_ = i
			}
			h.Count += rapid.Uint64Range(1, 100).Draw(t, name)
			h.Sum = float64(h.Count)
			return h
		}
		a, b := make("a"), make("b")
		got := a.Plus(b).Minus(a)
		if got.Count != b.Count || got.Sum != b.Sum {
			t.Fatalf("expected %v, found %v", b, got)
		}
		for i := range bounds {
			if got.Counts[i] != b.Counts[i] {
				t.Fatalf("expected %v, found %v", b, got)
			}
		}
	})
}

func TestTakeReadsMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lyceum_http_request_duration_seconds",
		Buckets: []float64{.1, 1},
	}, []string{"route", "role", "from", "code"})
	owned := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "lyceum_stream_owned"}, []string{"stream", "shard"})
	delivery := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lyceum_stream_delivery_seconds", Buckets: []float64{.01, .1}},
		[]string{"stream"})
	r.MustRegister(seconds, owned, delivery)
	delivery.WithLabelValues("events").Observe(.05)
	delivery.WithLabelValues("typing").Observe(.005)
	delivery.WithLabelValues("typing").Observe(.005)
	seconds.WithLabelValues("GET /a", "client", "client", "2xx").Observe(.05)
	seconds.WithLabelValues("GET /a", "client", "client", "5xx").Observe(.5)
	seconds.WithLabelValues("GET /a", "client", "process", "2xx").Observe(.05)
	owned.WithLabelValues("events", "3").Set(1)
	owned.WithLabelValues("events", "not a number").Set(1)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var s Sample
	for _, f := range families {
		s.take(f)
	}
	if len(s.Routes) != 2 || s.Routes[0].Hop || !s.Routes[1].Hop || s.Routes[1].Latency.Count != 1 || s.Routes[0].Latency.Count != 2 ||
		s.Routes[0].ByCode["5xx"] != 1 || s.Routes[0].Latency.Counts[0] != 1 {
		t.Errorf("routes: %+v", s.Routes)
	}
	if len(s.Streams) != 2 || len(s.Streams[0].Shards) != 4 || !s.Streams[0].Shards[3].Owned || s.Streams[0].Shards[0].Owned {
		t.Errorf("streams: %+v", s.Streams)
	}
	if s.Delivery.Count != 3 || s.delivery("events").Count != 1 || s.delivery("typing").Counts[0] != 2 || s.delivery("none").Count != 0 {
		t.Errorf("delivery of all %+v, of streams %+v", s.Delivery, s.Streams)
	}
}

func TestTextShowsRatesBetweenTwoLooks(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	look := func(at time.Time, cpu float64, requests uint64) *Fleet {
		h := Histogram{Bounds: []float64{.1, 1}, Counts: []uint64{requests, requests}, Count: requests}
		return &Fleet{At: at, Server: "example.org", Version: "1.2.3", Processes: []Sample{
			{
				At: at, Machine: 0, Version: "1.2.3", Roles: []string{"events"}, Started: start.Add(-time.Hour), Ready: true, CPU: cpu,
				Routes: []Route{{Pattern: "PUT /send", Latency: h, ByCode: map[string]float64{"2xx": float64(requests)}}},
			},
			{At: at, Machine: 7, Version: "1.2.3", Roles: []string{"sync"}, Error: "it does not answer: no route"},
		}, Streams: []Stream{{Name: "events", Shards: []Shard{{Machine: 0, Position: 5}, {Machine: -1}}}}}
	}
	var b strings.Builder
	if err := look(start.Add(2*time.Second), 11, 300).Text(&b, look(start, 10, 100)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"50.0 %", "100.0/s", "silent", "nobody:1", "0:1", "PUT /send", "60m", "example.org"} {
		if !strings.Contains(b.String(), want) && !(want == "60m" && strings.Contains(b.String(), "1h")) {
			t.Errorf("expected %q in\n%s", want, b.String())
		}
	}
}
