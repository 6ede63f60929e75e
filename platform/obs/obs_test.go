package obs_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"lyceum/platform/conf"
	"lyceum/platform/obs"
)

func open(t *testing.T, c obs.Config) *obs.Obs {
	t.Helper()
	o, err := obs.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close(context.Background()) })
	return o
}

func get(t *testing.T, o *obs.Obs, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	o.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestLogLevelsFormatsAndSecrets(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out strings.Builder
		o := open(t, obs.Config{LogFormat: format, LogLevel: "warn", Output: &out})
		o.Log.Info("unseen")
		o.Log.Warn("seen", "key", conf.Secret("sesame"), "access_token", "sesame", slog.Group("http", "Authorization", "sesame", "path", "/x"))
		if err := o.SetLevel("debug"); err != nil {
			t.Fatal(err)
		}
		o.Log.Debug("now seen")
		text := out.String()
		if strings.Contains(text, "unseen") || strings.Count(text, "seen") != 2 || !strings.Contains(text, "/x") {
			t.Errorf("%s: %s", format, text)
		}
		if strings.Contains(text, "sesame") {
			t.Errorf("%s: a secret is in the log: %s", format, text)
		}
	}
}

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	for key, c := range map[string]obs.Config{
		"log_format":    {LogFormat: "xml"},
		"log_level":     {LogLevel: "loud"},
		"otlp_endpoint": {OTLP: "collector:4318"},
	} {
		if _, err := obs.New(c); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, address := range []string{"http://u:sesame%zz@h", "http://u:sesame@127.0.0.1:1 x", "u:sesame@h:1", "http://u:hu/sh@h:4318"} {
		if _, err := obs.New(obs.Config{OTLP: address}); err == nil || strings.Contains(err.Error(), "hu") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestHealth(t *testing.T) {
	o := open(t, obs.Config{Output: io.Discard})
	var database atomic.Pointer[error]
	state := func(p *atomic.Pointer[error]) obs.Check {
		return func(context.Context) error {
			if err := p.Load(); err != nil {
				return *err
			}
			return nil
		}
	}
	broken := errors.New("no route to host")
	o.Health.Add("database", state(&database))
	expect := func(health, ready int) {
		t.Helper()
		if code, body := get(t, o, "/health"); code != health {
			t.Errorf("/health is %d, expected %d: %s", code, health, body)
		}
		if code, _ := get(t, o, "/ready"); code != ready {
			t.Errorf("/ready is %d, expected %d", code, ready)
		}
	}
	expect(503, 503)
	o.Health.SetReady(true)
	expect(200, 200)
	database.Store(&broken)
	expect(503, 200)
	_, body := get(t, o, "/health")
	var report obs.Report
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if report.OK || report.Checks["database"] != "no route to host" {
		t.Errorf("report %+v", report)
	}
	database.Store(nil)
	o.Health.SetReady(false)
	expect(503, 503)
	o.Health.SetReady(true)
	o.Health.Add("panics", func(context.Context) error { panic("oh") })
	expect(503, 200)
	o.Health.Remove("panics")
	expect(200, 200)
}

func TestACheckThatHangsDoesNotHangTheProbe(t *testing.T) {
	var h obs.Health
	release := make(chan struct{})
	defer close(release)
	h.Add("hangs", func(context.Context) error { <-release; return nil })
	h.Add("works", func(context.Context) error { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	report := h.Report(ctx)
	if report.OK || report.Checks["works"] != "ok" || !strings.Contains(report.Checks["hangs"], "no answer") {
		t.Errorf("report %+v", report)
	}
}

func TestMetricsAndProfiles(t *testing.T) {
	a, b := open(t, obs.Config{Output: io.Discard}), open(t, obs.Config{Output: io.Discard})
	b.Health.SetReady(true)
	_, textA := get(t, a, "/metrics")
	code, textB := get(t, b, "/metrics")
	if code != 200 || !strings.Contains(textB, `version="`+obs.Version+`"`) || !strings.Contains(textB, "go_goroutines") {
		t.Errorf("%d %s", code, textB)
	}
	if !strings.Contains(textA, "lyceum_ready 0") || !strings.Contains(textB, "lyceum_ready 1") {
		t.Error("the registries of two processes are not apart")
	}
	if code, body := get(t, a, "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("pprof: %d", code)
	}
	if code, _ := get(t, a, "/"); code != 404 {
		t.Errorf("/ is %d", code)
	}
}

func TestTracesReachTheCollector(t *testing.T) {
	got := make(chan *http.Request, 4)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- r
	}))
	defer collector.Close()
	o, err := obs.New(obs.Config{OTLP: collector.URL, SampleRatio: 1, Output: io.Discard, OTLPHeaders: map[string]conf.Secret{"X-Token": "t"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := o.Tracer.Start(t.Context(), "work")
	header := http.Header{}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
	span.End()
	if !strings.Contains(header.Get("Traceparent"), span.SpanContext().TraceID().String()) {
		t.Errorf("headers %v", header)
	}
	if err := o.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.URL.Path != "/v1/traces" || r.Header.Get("X-Token") != "t" {
		t.Errorf("%s %v", r.URL.Path, r.Header)
	}
}

func TestNoTracesWithoutCollector(t *testing.T) {
	o := open(t, obs.Config{Output: io.Discard, SampleRatio: 1})
	_, span := o.Tracer.Start(t.Context(), "work")
	if span.IsRecording() {
		t.Error("a span is recorded for nobody")
	}
	span.End()
}

func TestClock(t *testing.T) {
	start := time.Unix(1000, 0)
	c := obs.NewClock(start)
	var now func() time.Time = c.Now
	if got := c.Advance(time.Minute); !got.Equal(start.Add(time.Minute)) || !now().Equal(got) {
		t.Error("Advance")
	}
	c.Set(start)
	if !now().Equal(start) {
		t.Error("Set")
	}
	if time.Since(obs.Now()) > time.Minute {
		t.Error("Now")
	}
}

func TestConfigLoads(t *testing.T) {
	var c obs.Config
	section := conf.Section{Name: "obs", Into: &c}
	if err := conf.Load(conf.Sources{Environ: []string{"LYCEUM_OBS_LOG_FORMAT=json"}}, section); err != nil {
		t.Fatal(err)
	}
	if c.LogFormat != "json" || c.SampleRatio != 0.01 {
		t.Errorf("%+v", c)
	}
}
