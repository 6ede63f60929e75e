package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"lyceum/platform/conf"
)

// Version is X.Y.Z of this build; the linker sets it with -X lyceum/platform/obs.Version=…
var Version = "0.1.0"

// Config is the section "obs".
type Config struct {
	LogFormat   string                 `yaml:"log_format" own:"true" default:"text" oneof:"text|json" help:"form of log lines"`
	LogLevel    string                 `yaml:"log_level" own:"true" default:"info" oneof:"debug|info|warn|error" help:"least level that is logged"`
	OTLP        string                 `yaml:"otlp_endpoint" own:"true" help:"URL of an OTLP/HTTP collector for traces, such as http://collector:4318; empty: no traces"`
	OTLPHeaders map[string]conf.Secret `yaml:"otlp_headers" own:"true" help:"headers sent to the collector, such as an access token"`
	SampleRatio float64                `yaml:"trace_ratio" own:"true" default:"0.01" min:"0" max:"1" help:"share of requests that are traced"`

	// Output takes the log; nil: standard error.
	Output io.Writer `yaml:"-"`
}

// Validate names the key that is wrong and what to write instead.
func (c *Config) Validate() error {
	if _, err := url.Parse(c.OTLP); err != nil { // it may hold a password
		return errors.New("otlp_endpoint: expected a URL such as http://collector:4318, found one that can not be read: " +
			"write special characters of a password as %40, %20 and so on")
	}
	if c.OTLP != "" && !strings.HasPrefix(c.OTLP, "http://") && !strings.HasPrefix(c.OTLP, "https://") {
		return fmt.Errorf("otlp_endpoint: expected a URL that begins with http:// or https://, found %q: add the scheme", conf.Redact(c.OTLP))
	}
	return nil
}

// Obs is what one process shows of itself.
type Obs struct {
	Log      *slog.Logger
	Registry *prometheus.Registry // every metric of the process; there is no global registry
	Tracer   trace.Tracer         // does nothing unless a collector is configured
	Health   *Health

	level    *slog.LevelVar
	provider *sdktrace.TracerProvider
}

// New sets up logs, metrics and, when configured, traces. It opens no connection: a collector that is
// down costs traces and nothing else.
func New(c Config) (*Obs, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("obs: %w", err)
	}
	o := &Obs{Registry: prometheus.NewRegistry(), Health: &Health{}, level: &slog.LevelVar{}}
	if err := o.SetLevel(c.LogLevel); err != nil {
		return nil, err
	}
	out := c.Output
	if out == nil {
		out = os.Stderr
	}
	options := &slog.HandlerOptions{Level: o.level, ReplaceAttr: hideSecrets}
	switch c.LogFormat {
	case "json":
		o.Log = slog.New(slog.NewJSONHandler(out, options))
	case "text", "":
		o.Log = slog.New(slog.NewTextHandler(out, options))
	default:
		return nil, fmt.Errorf("obs: log_format: expected text or json, found %q", c.LogFormat)
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lyceum_build_info", Help: "Always 1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": Version, "go": runtime.Version()},
	}, func() float64 { return 1 })
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lyceum_ready", Help: "1 while the process wants requests.",
	}, func() float64 {
		if o.Health.Ready() {
			return 1
		}
		return 0
	})
	o.Registry.MustRegister(build, ready,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return o, o.traces(c)
}

func (o *Obs) traces(c Config) error {
	o.Tracer = noop.NewTracerProvider().Tracer("lyceum")
	if c.OTLP == "" {
		return nil
	}
	headers := map[string]string{}
	for name, value := range c.OTLPHeaders {
		headers[name] = value.Reveal()
	}
	endpoint := strings.TrimSuffix(c.OTLP, "/")
	if !strings.HasSuffix(endpoint, "/v1/traces") {
		endpoint += "/v1/traces"
	}
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(headers))
	if err != nil {
		return fmt.Errorf("obs: otlp_endpoint: %w", err)
	}
	// A caller that is traced is followed; others are sampled.
	o.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.SampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "lyceum"), attribute.String("service.version", Version))),
	)
	o.Tracer = o.provider.Tracer("lyceum")
	return nil
}

// SetLevel changes the least level that is logged: debug, info, warn or error.
func (o *Obs) SetLevel(name string) error {
	var level slog.Level
	if name != "" {
		if err := level.UnmarshalText([]byte(name)); err != nil {
			return fmt.Errorf("obs: log_level: expected debug, info, warn or error, found %q", name)
		}
	}
	o.level.Set(level)
	return nil
}

// secretWords are endings of attribute names whose values are not logged, whatever they hold.
var secretWords = []string{"password", "passphrase", "secret", "token", "authorization", "cookie", "private_key", "api_key"}

// hideSecrets is the second line of defence; the first is the type conf.Secret.
func hideSecrets(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	for _, word := range secretWords {
		if strings.HasSuffix(name, word) && a.Value.Kind() != slog.KindGroup {
			return slog.String(a.Key, "(secret)")
		}
	}
	text := ""
	switch v := a.Value.Any().(type) {
	case string:
		text = v
	case error:
		text = v.Error()
	default:
		return a
	}
	if shown := conf.Redact(text); shown != text { // the password of an address
		return slog.String(a.Key, shown)
	}
	return a
}

// Handler serves the internal listener: /health, /ready, /metrics and /debug/pprof/.
//
// /health is 200 only when requests would be served: the process is ready and its checks pass.
// /ready is 200 while the process wants requests; it turns 503 as soon as the process drains.
func (o *Obs) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /health", o.Health.serve(func(r Report) bool { return r.Ready && r.OK }))
	mux.Handle("GET /ready", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if !o.Health.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{Registry: o.Registry}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Close sends the remaining traces. It takes at most five seconds.
func (o *Obs) Close(ctx context.Context) error {
	if o.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return errors.Join(o.provider.ForceFlush(ctx), o.provider.Shutdown(ctx))
}
