package fleet

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/ops/deploy"
	"lyceum/platform/conf"
)

// alone opens a process over SQLite that is not run.
func alone(t *testing.T) *Process {
	t.Helper()
	c, err := Load(conf.Sources{Environ: []string{
		"LYCEUM_SERVER_DATA=" + t.TempDir(), "LYCEUM_SERVER_LISTEN=127.0.0.1:0",
		"LYCEUM_OBS_LOG_LEVEL=error",
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Rules and dashboards name only metrics that a process has.
func TestRulesNameMetricsThatExist(t *testing.T) {
	p := alone(t)
	known := append(metricNames(p.obs.Registry), fleetMetrics...)
	in := deploy.Input{ServerName: "example.org", Roles: Roles}
	for _, render := range []func(deploy.Input) ([]deploy.File, error){deploy.Prometheus, deploy.Grafana} {
		files, err := render(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := deploy.CheckMetrics(files, known); err != nil {
			t.Error(err)
		}
	}
}

// fleetMetrics are those that a process alone does not have. up is Prometheus's own.
var fleetMetrics = []string{"up", "lyceum_router_hops_total", "lyceum_rpc_seconds"}

// metricNames are the names of all metrics that were registered, also of those that have counted nothing yet.
func metricNames(r *prometheus.Registry) (names []string) {
	list := make(chan *prometheus.Desc)
	go func() {
		defer close(list)
		r.Describe(list)
	}()
	for d := range list {
		_, text, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ := strings.Cut(text, `"`)
		names = append(names, name)
	}
	return names
}
