package render

import (
	"os"
	"path/filepath"
	"testing"

	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/platform/conf"
	"lyceum/rooms"
)

func TestRenderedConfigurationsLoad(t *testing.T) {
	p := plan.Make(plan.Load{ConcurrentUsers: 5000}, plan.Default(), fleet.PlanRoles())
	in := deploy.Input{
		ServerName: "example.org", Roles: fleet.Roles, Sizes: Sizes(p), S3: deploy.S3{AccessKey: "lyceum"},
		Secrets: deploy.Secrets{
			DatabaseURL: "postgres://lyceum:secret@postgres/lyceum", RedisPassword: "a password of Redis", S3SecretKey: "a key",
			Fleet: "a secret of the fleet 0123456789",
		},
	}
	dir := t.TempDir()
	for name, secret := range map[string]string{
		"database-url": in.Secrets.DatabaseURL, "redis-password": in.Secrets.RedisPassword, "s3-secret-key": in.Secrets.S3SecretKey,
		"fleet-secret": in.Secrets.Fleet,
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
	c, err := fleet.Load(conf.Sources{File: file, Environ: []string{"LYCEUM_FLEET_ROLES=events", "LYCEUM_FLEET_ADVERTISE=10.0.0.1:8009"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if c.Server.Name != "example.org" || c.Embedded() || c.Fleet.Secret.Reveal() != in.Secrets.Fleet {
		t.Errorf("the rendered configuration says something else:\n%s", text)
	}
}

// TestPlansKnowTheDefaultsOfTheConfiguration that make processes take memory.
func TestPlansKnowTheDefaultsOfTheConfiguration(t *testing.T) {
	c, err := fleet.Load(conf.Sources{Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.MaxInFlight != plan.DefaultMaxInFlight || fleet.SectionOf[rooms.Config](c).OwnerMemory != plan.DefaultOwnerMemory {
		t.Errorf("the defaults are %v and %v", c.HTTP.MaxInFlight, fleet.SectionOf[rooms.Config](c).OwnerMemory)
	}
}

// TestNoProcessIsKilledForWhatItIsPromised: limits of every role hold what manual/survival.md says that a process may take.
func TestNoProcessIsKilledForWhatItIsPromised(t *testing.T) {
	for _, users := range []float64{300, 1000, 20000} {
		p := plan.Make(plan.Load{ConcurrentUsers: users}, plan.Default(), fleet.PlanRoles())
		for name, s := range Sizes(p) {
			needs := plan.DefaultMaxInFlight + plan.Building + 40<<20
			if name == "events" {
				needs += plan.DefaultOwnerMemory
			}
			if s.Memory < int64(needs) {
				t.Errorf("%v users: %s may take %d MiB and needs %d", users, name, s.Memory>>20, needs>>20)
			}
		}
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
		p := plan.Make(plan.Load{ConcurrentUsers: float64(users+1) * 4000}, plan.Default(), fleet.PlanRoles())
		sizes := Sizes(p)
		for _, r := range fleet.Roles {
			if s, ok := sizes[r.Name]; r.Pool == "" && (!ok || s.Min < 2 || s.Max < s.Min || s.CPU <= 0 || s.Memory <= 0) {
				t.Errorf("%s: %+v", r.Name, s)
			}
		}
	}
}
