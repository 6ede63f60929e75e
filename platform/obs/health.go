package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Check tells whether one part of the process works. It must heed ctx.
type Check func(ctx context.Context) error

// Health gathers the named checks of a process. The zero value is ready to use and answers "not ready"
// until SetReady(true).
type Health struct {
	mu     sync.Mutex
	ready  bool
	checks map[string]Check
}

// Add names a part without which requests can not be served. A second one of the same name replaces the first.
func (h *Health) Add(name string, run Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checks == nil {
		h.checks = map[string]Check{}
	}
	h.checks[name] = run
}

// Remove takes a check away.
func (h *Health) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.checks, name)
}

// SetReady says whether this process wants requests: true when all its roles run, false when it drains.
func (h *Health) SetReady(ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = ready
}

// Ready reports whether SetReady(true) was called last. It runs no checks.
func (h *Health) Ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

// checkTimeout bounds each check, below the timeout of usual probes.
const checkTimeout = 2 * time.Second

// Report is the answer to a probe.
type Report struct {
	OK     bool              `json:"ok"`
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"` // name to "ok" or what is wrong
}

// Report runs all checks at once. OK is true when every check passed.
func (h *Health) Report(ctx context.Context) Report {
	h.mu.Lock()
	checks, ready := maps.Clone(h.checks), h.ready
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(checks))
	for name, run := range checks {
		go func() { results <- result{name, runCheck(ctx, run)} }()
	}
	report := Report{OK: true, Ready: ready, Checks: map[string]string{}}
	set := func(name string, err error) {
		report.Checks[name] = "ok"
		if err != nil {
			report.Checks[name] = err.Error()
			report.OK = false
		}
	}
	for range checks {
		select {
		case r := <-results:
			set(r.name, r.err)
		case <-ctx.Done():
			// A check that ignores its context must not make the probe hang.
			for _, name := range slices.Sorted(maps.Keys(checks)) {
				if _, done := report.Checks[name]; !done {
					set(name, fmt.Errorf("no answer within %s", checkTimeout))
				}
			}
			return report
		}
	}
	return report
}

func runCheck(ctx context.Context, run Check) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check panicked: %v", p)
		}
	}()
	if run == nil {
		return errors.New("there is no check function")
	}
	return run(ctx)
}

// serve answers 200 when ok says so, or else 503, and the report as JSON.
func (h *Health) serve(ok func(Report) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		report := h.Report(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ok(report) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(report)
	})
}
