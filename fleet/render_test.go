package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/platform/conf"
)

// alone opens a process over SQLite that is not run.
func alone(t *testing.T) *Process {
	t.Helper()
	c, err := Load(conf.Sources{Environ: []string{"LYCEUM_SERVER_DATA=" + t.TempDir(), "LYCEUM_SERVER_LISTEN=127.0.0.1:0", "LYCEUM_OBS_LOG_LEVEL=error"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
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

func TestRenderedConfigurationsLoad(t *testing.T) {
	p := plan.Make(plan.Load{ConcurrentUsers: 5000}, plan.Default(), PlanRoles())
	in := deploy.Input{ServerName: "example.org", Roles: Roles, Sizes: Sizes(p), S3: deploy.S3{AccessKey: "lyceum"}, Secrets: deploy.Secrets{
		DatabaseURL: "postgres://lyceum:secret@postgres/lyceum", RedisPassword: "a password of Redis", S3SecretKey: "a key", Fleet: "a secret of the fleet 0123456789",
	}}
	dir := t.TempDir()
	for name, secret := range map[string]string{
		"database-url": in.Secrets.DatabaseURL, "redis-password": in.Secrets.RedisPassword, "s3-secret-key": in.Secrets.S3SecretKey, "fleet-secret": in.Secrets.Fleet,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := deploy.Config(in, dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "lyceum.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(conf.Sources{File: file, Environ: []string{"LYCEUM_FLEET_ROLES=events", "LYCEUM_FLEET_ADVERTISE=10.0.0.1:8009"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if c.Server.Name != "example.org" || c.embedded() || c.Fleet.Secret.Reveal() != in.Secrets.Fleet {
		t.Errorf("the rendered configuration says something else:\n%s", text)
	}
}

func TestParseBackends(t *testing.T) {
	got, err := ParseBackends([]string{"router=10.0.0.1:8008", "events=10.0.0.2:8008,10.0.0.3:8008", "sync=dns:sync.internal:8008"})
	if err != nil || len(got["events"].Servers) != 2 || got["sync"].DNS != "sync.internal" || got["sync"].Port != 8008 {
		t.Errorf("found %+v, %v", got, err)
	}
	for _, bad := range []string{"router", "nonsense=10.0.0.1:8008", "sync=dns:sync.internal"} {
		if _, err := ParseBackends([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestSizesGiveEveryPlannedRoleTwoProcesses(t *testing.T) {
	for users := range 3 {
		p := plan.Make(plan.Load{ConcurrentUsers: float64(users+1) * 4000}, plan.Default(), PlanRoles())
		sizes := Sizes(p)
		for _, r := range Roles {
			if s, ok := sizes[r.Name]; r.Pool == "" && (!ok || s.Min < 2 || s.Max < s.Min || s.CPU <= 0 || s.Memory <= 0) {
				t.Errorf("%s: %+v", r.Name, s)
			}
		}
	}
}
