package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run measured and checked.
type Result struct {
	Mode       string             `json:"mode"`
	Settings   map[string]any     `json:"settings"`
	Seconds    float64            `json:"seconds"`
	Done       int64              `json:"done"`
	PerSecond  float64            `json:"per_second"`
	Errors     int64              `json:"errors"`
	Retries    int64              `json:"retries"`
	Latency    map[string]float64 `json:"latency_ms"` // by percentile: p50, p95, p99, max, mean
	Deliveries int64              `json:"deliveries,omitempty"`
	Longest    float64            `json:"longest_pause_ms"` // between two successes of anybody
	Server     *Usage             `json:"server,omitempty"`
	Check      string             `json:"check"` // "ok", or what was wrong
	Timeline   []Point            `json:"timeline"`
}

// Point is one second of a run.
type Point struct {
	Second int     `json:"second"`
	Count  int64   `json:"count"`
	P50    float64 `json:"p50_ms"`
	P95    float64 `json:"p95_ms"`
}

// Usage is what the server's processes took.
type Usage struct {
	Cores  float64 `json:"cores"`   // mean of the run
	RSSMiB float64 `json:"rss_mib"` // highest seen
}

// meter collects latencies of many goroutines.
type meter struct {
	mu     sync.Mutex
	all    *hdrhistogram.Histogram
	second *hdrhistogram.Histogram
	points []Point
	last   time.Time
	pause  time.Duration
	begun  time.Time
	errors atomic.Int64
	retry  atomic.Int64
}

func newMeter() *meter {
	h := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3) }
	return &meter{all: h(), second: h()}
}

func (m *meter) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = time.Now()
	m.last = m.begun
}

// record takes one latency.
func (m *meter) record(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.pause = max(m.pause, now.Sub(m.last))
	m.last = now
	us := max(1, d.Microseconds())
	_ = m.all.RecordValue(us)    // longer than 10 minutes is not kept
	_ = m.second.RecordValue(us) // as above
}

// tick closes one second and returns it.
func (m *meter) tick() Point {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Point{len(m.points) + 1, m.second.TotalCount(), ms(m.second, 50), ms(m.second, 95)}
	m.points = append(m.points, p)
	m.second.Reset()
	return p
}

func ms(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtQuantile(percentile)) / 1000
}

func (m *meter) result(mode string, settings map[string]any) *Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := time.Since(m.begun).Seconds()
	return &Result{
		Mode: mode, Settings: settings, Seconds: took, Done: m.all.TotalCount(), PerSecond: float64(m.all.TotalCount()) / took,
		Errors: m.errors.Load(), Retries: m.retry.Load(), Longest: float64(m.pause.Microseconds()) / 1000, Timeline: m.points,
		Latency: map[string]float64{
			"p50": ms(m.all, 50), "p95": ms(m.all, 95), "p99": ms(m.all, 99), "max": float64(m.all.Max()) / 1000, "mean": m.all.Mean() / 1000,
		},
	}
}

// Text prints the result for people.
func (r *Result) Text(w io.Writer) {
	fmt.Fprintf(w, "%s: %d in %.1f s, %.0f per second; p50 %.1f ms, p95 %.1f ms, p99 %.1f ms, max %.0f ms\n",
		r.Mode, r.Done, r.Seconds, r.PerSecond, r.Latency["p50"], r.Latency["p95"], r.Latency["p99"], r.Latency["max"])
	fmt.Fprintf(w, "errors %d, retries %d, longest pause %.0f ms, check: %s\n", r.Errors, r.Retries, r.Longest, r.Check)
	if r.Deliveries > 0 {
		fmt.Fprintf(w, "deliveries: %d, %.0f per second\n", r.Deliveries, float64(r.Deliveries)/r.Seconds)
	}
	if r.Server != nil {
		fmt.Fprintf(w, "server: %.2f cores, %.0f MiB resident at most\n", r.Server.Cores, r.Server.RSSMiB)
	}
}

// JSON prints the result for programs.
func (r *Result) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// progress shows on a terminal how far long preparations are.
type progress struct {
	out   io.Writer
	what  string
	total int64
	done  atomic.Int64
	last  atomic.Int64
}

func newProgress(out io.Writer, what string, total int) *progress {
	return &progress{out: out, what: what, total: int64(total)}
}

func (p *progress) step() {
	n := p.done.Add(1)
	now, last := time.Now().UnixMilli(), p.last.Load()
	if (now-last > 500 || n == p.total) && p.last.CompareAndSwap(last, now) {
		fmt.Fprintf(p.out, "\r%s: %d of %d", p.what, n, p.total)
		if n == p.total {
			fmt.Fprintln(p.out)
		}
	}
}

// watchUsage samples processes until stop is called, which returns what they took.
func watchUsage(pids []int) (stop func() *Usage) {
	if len(pids) == 0 {
		return func() *Usage { return nil }
	}
	began, before := time.Now(), cpuSeconds(pids)
	u := &Usage{}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			u.RSSMiB = max(u.RSSMiB, rssMiB(pids))
			select {
			case <-quit:
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	return func() *Usage {
		close(quit)
		<-done
		u.Cores = (cpuSeconds(pids) - before) / time.Since(began).Seconds()
		return u
	}
}

// clockTicks is the unit of CPU times in /proc (sysconf _SC_CLK_TCK), 100 on Linux.
const clockTicks = 100

func cpuSeconds(pids []int) (sum float64) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 12 {
			user, _ := strconv.ParseFloat(fields[11], 64)
			system, _ := strconv.ParseFloat(fields[12], 64)
			sum += (user + system) / clockTicks
		}
	}
	return sum
}

func rssMiB(pids []int) (sum float64) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				sum += kib / 1024
			}
		}
	}
	return sum
}
