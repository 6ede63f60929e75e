package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/ops/plan"
	"lyceum/platform/status"
)

var now = time.Date(2026, 3, 1, 12, 0, 10, 0, time.UTC)

// hist is a histogram of n observations that took so many seconds each: its quantiles are about that.
func hist(n uint64, seconds float64) status.Histogram {
	h := status.Histogram{Count: n, Sum: float64(n) * seconds}
	// Two bounds so close around the value that interpolation can not leave it.
	h.Bounds = []float64{seconds, seconds * (1 + 1e-9)}
	h.Counts = []uint64{0, n}
	return h
}

// healthy is a fleet of two processes with every role over PostgreSQL, Redis and S3, ten seconds after before.
func healthy() (before, after *status.Fleet) {
	sample := func(machine int, at time.Time, seconds float64) status.Sample {
		n := uint64(1000 * seconds)
		s := status.Sample{
			At: at, Machine: machine, Incarnation: 7, Host: "h", Version: "1.2.3", Roles: []string{"all"}, Started: now.Add(-time.Hour), Ready: true,
			CPU: 100 + seconds*0.5, CPUs: 2, Resident: 200 << 20, MemoryLimit: 1 << 30, Files: 100, MaxFiles: 65536, Queued: 3,
			Commit: hist(n, 0.005), Delivery: hist(n, 0.004), Redis: hist(n, 0.001), Blob: hist(n, 0.02),
			Pool:   status.Pool{InUse: 2, Open: 5, Max: 16, Waits: 5, WaitSeconds: 0.001},
			Public: "0.0.0.0:8008", Internal: "10.0.0.5:8009", Ops: "127.0.0.1:8010", Scratch: "ext4", ScratchFree: 50 << 30,
			Routes: []status.Route{
				{Pattern: "PUT /send", Role: "events", ByCode: map[string]float64{"2xx": float64(n)}, Latency: hist(n, 0.02)},
				{Pattern: "GET /_matrix/client/v3/sync", Role: "sync", ByCode: map[string]float64{"2xx": float64(n)}, Latency: hist(n, 29)},
				{
					Pattern: "GET /_matrix/client/v1/media/download/{server}/{id}", Role: "media", ByCode: map[string]float64{"2xx": 300},
					Latency: hist(300, 0.3),
				},
			},
		}
		for i := range 4 {
			if len(s.Streams) == 0 {
				s.Streams = []status.ProcessStream{{Name: "events", Shards: make([]status.ProcessShard, 4)}}
			}
			s.Streams[0].Shards[i] = status.ProcessShard{Position: 10, Owned: i%2 == machine, Rows: 100 * seconds}
		}
		return s
	}
	fleet := func(at time.Time, seconds float64) *status.Fleet {
		return &status.Fleet{
			At: at, Version: "1.2.3", Processes: []status.Sample{sample(0, at, seconds), sample(1, at, seconds)},
			Streams: []status.Stream{{
				Name: "events", Role: "events",
				Shards: []status.Shard{{Machine: 0}, {Machine: 1}, {Machine: 0}, {Machine: 1}},
			}},
			Jobs: []status.Lease{{Name: "background", Machine: 0}},
			Database: status.Engine{
				Kind: "postgresql", Address: "10.0.0.9:5432", RoundTrip: 0.001, Protected: true, Encrypted: true,
				Connections: 30, MaxConn: 100,
			},
			Redis: status.Engine{
				Kind: "redis", Address: "10.0.0.8:6379", RoundTrip: 0.001, Protected: true, Encrypted: true, Memory: 10,
				MaxMemory: 100,
			},
			Blob: status.Engine{Kind: "s3", Address: "10.0.0.7:9000", RoundTrip: 0.01, Protected: true, Encrypted: true},
		}
	}
	return fleet(now.Add(-10*time.Second), 1), fleet(now, 11)
}

func safe() *Security {
	return &Security{
		Secrets:      []Secret{{"fleet.secret", 64, 240}},
		Registration: "token", PasswordMemoryKiB: 19456, PasswordPasses: 2, PublicListener: "203.0.113.9:443", PublicTLS: true,
	}
}

func worst(list []Finding, rule string) (Finding, bool) {
	for _, f := range list {
		if f.Rule == rule {
			return f, true
		}
	}
	return Finding{}, false
}

func TestAHealthyFleetIsWell(t *testing.T) {
	before, after := healthy()
	list := Examine(before, after, Given{Security: safe()})
	for _, f := range list {
		if f.Severity != OK {
			t.Errorf("%+v", f)
		}
	}
	if h := Headline(list); !strings.HasPrefix(h, "All is well") {
		t.Error(h)
	}
	if Failed(list) {
		t.Error("failed")
	}
}

// scenario changes the healthy fleet; the rule must then give the severity.
type scenario struct {
	name   string
	rule   string
	want   Severity // "": the rule says nothing
	change func(b, a *status.Fleet, g *Given)
}

func both(fn func(s *status.Sample, v float64)) func(v float64) func(b, a *status.Fleet, g *Given) {
	return func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(_, a *status.Fleet, _ *Given) { fn(&a.Processes[1], v) }
	}
}

// limits are scenarios on both sides of the limits of a rule: just below is well, the limit itself is not.
func limits(rule string, warn, critical float64, set func(v float64) func(b, a *status.Fleet, g *Given)) []scenario {
	out := []scenario{
		{rule + " below its target", rule, OK, set(warn * 0.999)},
		{rule + " at its target", rule, Warning, set(warn)},
	}
	if critical > 0 {
		out = append(out,
			scenario{rule + " below critical", rule, Warning, set(critical * 0.999)},
			scenario{rule + " critical", rule, Critical, set(critical)})
	}
	return out
}

func gaugeScenarios() []scenario {
	var out []scenario
	add := func(rule string, warn, critical float64, set func(v float64) func(b, a *status.Fleet, g *Given)) {
		out = append(out, limits(rule, warn, critical, set)...)
	}
	replace := func(field func(s *status.Sample) *status.Histogram) func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(v float64) func(b, a *status.Fleet, g *Given) {
			return func(b, a *status.Fleet, _ *Given) {
				*field(&b.Processes[1]), *field(&a.Processes[1]) = status.Histogram{}, hist(1000, v)
			}
		}
	}
	add("database-write", 0.05, 0.5, replace(func(s *status.Sample) *status.Histogram { return &s.Commit }))
	add("stream-delivery", 0.1, 1, replace(func(s *status.Sample) *status.Histogram { return &s.Delivery }))
	add("redis", 0.05, 1, replace(func(s *status.Sample) *status.Histogram { return &s.Redis }))
	add("blob", 0.5, 5, replace(func(s *status.Sample) *status.Histogram { return &s.Blob }))
	route := func(i int) func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(v float64) func(b, a *status.Fleet, g *Given) {
			return func(b, a *status.Fleet, _ *Given) {
				b.Processes[0].Routes, b.Processes[1].Routes = nil, nil
				a.Processes[0].Routes[i].Latency = hist(1000, v)
				a.Processes[1].Routes[i].Latency = hist(1000, v)
			}
		}
	}
	add("api", 1, 5, route(0))
	add("media", 2, 10, route(2))
	add("sync", 0.5, 2, func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(_, _ *status.Fleet, g *Given) { g.SyncAfter = hist(1000, v) }
	})
	add("cpu", 0.7, 0.9, func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(b, a *status.Fleet, _ *Given) {
			b.Processes[1].CPU, a.Processes[1].CPU = 0, v*20 // two cores, ten seconds
		}
	})
	add("memory", 0.8, 0.95, both(func(s *status.Sample, v float64) { s.MemoryLimit, s.Resident = 1e12, int64(v*1e12+0.5) }))
	add("files", 0.8, 0.95, both(func(s *status.Sample, v float64) { s.MaxFiles, s.Files = 1e9, int64(v*1e9+0.5) }))
	add("clock", 0.5, 10, both(func(s *status.Sample, v float64) { s.ClockAhead = -v }))
	add("clock", 0.5, 10, both(func(s *status.Sample, v float64) { s.ClockAhead = v }))
	add("pool", 0.8, 1, both(func(s *status.Sample, v float64) { s.Pool.Max, s.Pool.InUse = 1e6, int(v*1e6+0.5) }))
	add("pool-wait", 0.01, 0.5, both(func(s *status.Sample, v float64) { s.Pool.Waits, s.Pool.WaitSeconds = 1005, 0.001+1000*v+1e-9 }))
	add("queue", 500, 5000, both(func(s *status.Sample, v float64) { s.Queued = int(v) }))
	add("replication", 500, 10000, both(func(s *status.Sample, v float64) { s.Streams[0].Shards[2].Behind = int64(v) }))
	add("errors", 0.01, 0.05, func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(b, a *status.Fleet, _ *Given) {
			b.Processes[0].Routes, b.Processes[1].Routes = nil, nil
			a.Processes[0].Routes[0].ByCode = map[string]float64{"2xx": (1 - v) * 1e6, "5xx": v * 1e6}
			a.Processes[1].Routes[0].ByCode = nil
		}
	})
	engine := func(set func(a *status.Fleet, v float64)) func(v float64) func(b, a *status.Fleet, g *Given) {
		return func(v float64) func(b, a *status.Fleet, g *Given) {
			return func(_, a *status.Fleet, _ *Given) { set(a, v) }
		}
	}
	add("database-trip", 0.01, 0.1, engine(func(a *status.Fleet, v float64) { a.Database.RoundTrip = v }))
	add("blob-trip", 0.5, 5, engine(func(a *status.Fleet, v float64) { a.Blob.RoundTrip = v }))
	add("connections", 0.8, 0.95, engine(func(a *status.Fleet, v float64) {
		a.Database.MaxConn, a.Database.Connections = 1e6,
			int(v*1e6+0.5)
	}))
	add("engine-memory", 0.8, 0.95, engine(func(a *status.Fleet, v float64) { a.Redis.MaxMemory, a.Redis.Memory = 1e9, int64(v*1e9+0.5) }))
	add("database-lag", 1, 60, engine(func(a *status.Fleet, v float64) {
		a.Database.Extra = map[string]float64{"replication_lag_seconds": v}
	}))
	return out
}

func process(fn func(s *status.Sample)) func(b, a *status.Fleet, g *Given) {
	return func(_, a *status.Fleet, _ *Given) { fn(&a.Processes[1]) }
}

func config(fn func(s *Security)) func(b, a *status.Fleet, g *Given) {
	return func(_, _ *status.Fleet, g *Given) { fn(g.Security) }
}

func fleetOf(fn func(a *status.Fleet)) func(b, a *status.Fleet, g *Given) {
	return func(_, a *status.Fleet, _ *Given) { fn(a) }
}

func otherScenarios() []scenario {
	rollout := func(state string, ago time.Duration) func(b, a *status.Fleet, g *Given) {
		return fleetOf(func(a *status.Fleet) {
			a.Rollout = &status.Rollout{From: "1.2.3", To: "1.3.0", State: state, Changed: now.Add(-ago)}
		})
	}
	versions := func(zero, one string, running bool) func(b, a *status.Fleet, g *Given) {
		return fleetOf(func(a *status.Fleet) {
			a.Processes[0].Version, a.Processes[1].Version = zero, one
			if running {
				a.Rollout = &status.Rollout{State: "running", Changed: now}
			}
		})
	}
	rate := func(share float64) func(b, a *status.Fleet, g *Given) {
		return func(b, a *status.Fleet, g *Given) {
			g.Capacities = &plan.Capacities{Operations: map[string]plan.Operation{plan.OpRequest: {PerCore: 1000}}}
			b.Processes[1].Routes[0].Latency = hist(0, 0.01)
			a.Processes[1].Routes[0].Latency = hist(uint64(share*20000), 0.01) // 2 cores, 10 s
		}
	}
	hops := func(share float64) func(b, a *status.Fleet, g *Given) {
		return fleetOf(func(a *status.Fleet) { a.Processes[0].Hops = share * 40000 }) // both routes of both processes, 10 s
	}
	secret := func(bits float64) func(s *Security) { return func(s *Security) { s.Secrets[0].Entropy = bits } }
	return []scenario{
		{"a machine that does not answer", "machine", Critical, process(func(s *status.Sample) { s.Error = "connection refused" })},
		{"a heartbeat in time", "machine", OK, process(func(s *status.Sample) { s.At = now.Add(-9 * time.Second) })},
		{"a heartbeat too late", "machine", Critical, process(func(s *status.Sample) { s.At = now.Add(-10 * time.Second) })},
		{"a machine that starts", "machine", Note, process(func(s *status.Sample) { s.Ready, s.Started = false, now.Add(-59*time.Second) })},
		{
			"a machine that never gets ready", "machine", Critical,
			process(func(s *status.Sample) { s.Ready, s.Started = false, now.Add(-time.Minute) }),
		},
		{"a machine that drains", "machine", Note, process(func(s *status.Sample) { s.Draining = true })},
		{"no machine at all", "machine", Critical, fleetOf(func(a *status.Fleet) { a.Processes = nil })},
		{"cut off from Redis", "redis-mute", Warning, process(func(s *status.Sample) { s.Degraded = true })},
		{"reaching Redis", "redis-mute", "", process(func(*status.Sample) {})},

		{"a shard without an owner", "shard-owner", Critical, fleetOf(func(a *status.Fleet) { a.Streams[0].Shards[2].Machine = -1 })},
		{"a shard whose owner is gone", "shard-owner", Critical, fleetOf(func(a *status.Fleet) { a.Streams[0].Shards[2].Machine = 9 })},
		{"shards that differ by one", "balance", OK, fleetOf(func(a *status.Fleet) {
			a.Streams[0].Shards = []status.Shard{{Machine: 0}, {Machine: 0}, {Machine: 1}}
		})},
		{"shards that differ by two", "balance", Warning, fleetOf(func(a *status.Fleet) {
			a.Streams[0].Shards = []status.Shard{{Machine: 0}, {Machine: 0}, {Machine: 0}, {Machine: 1}}
		})},
		{"uneven only because one just started", "balance", OK, fleetOf(func(a *status.Fleet) {
			a.Streams[0].Shards = []status.Shard{{Machine: 0}, {Machine: 0}, {Machine: 0}, {Machine: 0}}
			a.Processes[1].Started = now.Add(-5 * time.Second)
		})},
		{"rows spread over shards", "hot-shard", "", fleetOf(func(*status.Fleet) {})},
		{"one hot shard", "hot-shard", Note, process(func(s *status.Sample) { s.Streams[0].Shards[3].Rows += 1e6 })},
		{"work that nobody does", "jobs", Warning, fleetOf(func(a *status.Fleet) { a.Jobs[0].Machine = -1 })},

		{"versions that differ in Z", "versions", Note, versions("1.2.4", "1.2.3", false)},
		{"versions that differ in Y", "versions", Warning, versions("1.3.0", "1.2.3", false)},
		{"versions that differ in Y in an upgrade", "versions", Note, versions("1.3.0", "1.2.3", true)},
		{"versions that differ in X", "versions", Critical, versions("2.0.0", "1.2.3", true)},
		{"machine 0 first", "machine-0-first", "", versions("1.10.0", "1.9.3", true)},
		{"machine 0 last", "machine-0-first", Warning, versions("1.9.0", "1.10.0", true)},
		{"an upgrade that moves", "rollout", Note, rollout("running", 9*time.Minute)},
		{"an upgrade that is stuck", "rollout", Critical, rollout("running", 10*time.Minute)},
		{"an upgrade that failed", "rollout", Critical, rollout("failed", time.Hour)},
		{"an upgrade that was taken back", "rollout", Warning, rollout("rolled back", time.Hour)},
		{"an upgrade that is done", "rollout", OK, rollout("done", time.Hour)},

		{"requests below capacity", "request-rate", OK, rate(0.69)},
		{"requests at capacity", "request-rate", Warning, rate(0.7)},
		{"few hops", "hops", OK, hops(0.2)},
		{"many hops", "hops", Note, hops(0.5)},

		{"the database is down", "engine", Critical, fleetOf(func(a *status.Fleet) { a.Database.Error = "refused" })},
		{"PostgreSQL without a password", "engine-open", Critical, fleetOf(func(a *status.Fleet) { a.Database.Protected = false })},
		{"Redis without a password", "engine-open", Critical, fleetOf(func(a *status.Fleet) { a.Redis.Protected = false })},
		{
			"Redis without a password on this machine", "engine-open", Warning,
			fleetOf(func(a *status.Fleet) { a.Redis.Protected, a.Redis.Address = false, "127.0.0.1:6379" }),
		},
		{"a bucket without keys", "engine-open", Critical, fleetOf(func(a *status.Fleet) { a.Blob.Protected = false })},
		{"SQLite asks for nothing", "engine-open", OK, fleetOf(func(a *status.Fleet) { a.Database = status.Engine{Kind: "sqlite"} })},
		{"plain Redis on another machine", "engine-plain", Warning, fleetOf(func(a *status.Fleet) { a.Redis.Encrypted = false })},
		{"encrypted engines", "engine-plain", "", fleetOf(func(*status.Fleet) {})},

		{"operators' listener on a public address", "listener", Critical, process(func(s *status.Sample) { s.Ops = "203.0.113.4:8010" })},
		{"operators' listener everywhere", "listener", Warning, process(func(s *status.Sample) { s.Ops = ":8010" })},
		{"operators' listener in a private network", "listener", OK, process(func(s *status.Sample) { s.Ops = "192.168.3.4:8010" })},
		{"internal listener on a public address", "listener", Critical, process(func(s *status.Sample) { s.Internal = "[2001:db8::5]:8009" })},
		{"internal listener everywhere", "listener", Note, process(func(s *status.Sample) { s.Internal = "0.0.0.0:8009" })},
		{"internal listener in a private network", "listener", OK, process(func(s *status.Sample) { s.Internal = "[fd00::5]:8009" })},
		{"internal listener in a cloud", "listener", OK, process(func(s *status.Sample) { s.Internal = "100.64.1.2:8009" })},

		{"4,095 files", "file-limit", Warning, process(func(s *status.Sample) { s.MaxFiles = 4095 })},
		{"4,096 files", "file-limit", OK, process(func(s *status.Sample) { s.MaxFiles = 4096 })},
		{"scratch on NFS", "scratch", Warning, process(func(s *status.Sample) { s.Scratch = "nfs4" })},
		{"scratch on SMB", "scratch", Warning, process(func(s *status.Sample) { s.Scratch = "CIFS" })},
		{"scratch on a FUSE file system", "scratch", Warning, process(func(s *status.Sample) { s.Scratch = "fuse.sshfs" })},
		{"scratch on a local disk", "scratch", OK, process(func(s *status.Sample) { s.Scratch = "xfs" })},
		{"scratch in a container", "scratch", OK, process(func(s *status.Sample) { s.Scratch = "overlay" })},
		{"a disk with space", "disk", "", process(func(s *status.Sample) { s.ScratchFree = 5 << 30 })},
		{"a disk nearly full", "disk", Warning, process(func(s *status.Sample) { s.ScratchFree = 5<<30 - 1 })},
		{"a disk with a little", "disk", Warning, process(func(s *status.Sample) { s.ScratchFree = 1 << 30 })},
		{"a full disk", "disk", Critical, process(func(s *status.Sample) { s.ScratchFree = 1<<30 - 1 })},

		{"a strong secret", "configuration", OK, config(secret(100))},
		{"a fair secret", "configuration", Warning, config(secret(99))},
		{"a fair secret, just", "configuration", Warning, config(secret(64))},
		{"a weak secret", "configuration", Critical, config(secret(63))},
		{"open registration", "configuration", Warning, config(func(s *Security) { s.Registration = "open" })},
		{"rate limits off", "configuration", Critical, config(func(s *Security) { s.RateLimitsOff = true })},
		{"cheap passwords", "configuration", Warning, config(func(s *Security) { s.PasswordMemoryKiB, s.PasswordPasses = 7168, 4 })},
		{"passwords at the least cost", "configuration", OK, config(func(s *Security) { s.PasswordMemoryKiB, s.PasswordPasses = 7168, 5 })},
		{"every proxy trusted", "configuration", Critical, config(func(s *Security) { s.TrustsEveryProxy = true })},
		{"media for all", "configuration", Note, config(func(s *Security) { s.UnauthenticatedMedia = true })},
		{"a proxy that is not trusted", "proxy", Warning, process(func(s *status.Sample) { s.Untrusted = []string{"10.0.0.5"} })},
		{"somebody who says to be a proxy", "proxy", Note, process(func(s *status.Sample) { s.Untrusted = []string{"8.8.8.8"} })},
		{"a readable secret", "configuration", Critical, config(func(s *Security) { s.SecretFilesReadable = []string{"/etc/lyceum/secret"} })},
		{"an open data directory", "configuration", Warning, config(func(s *Security) { s.DirectoryOpen = "/var/lib/lyceum" })},
		{"public without TLS", "configuration", Critical, config(func(s *Security) { s.PublicTLS = false })},
		{"private without TLS", "configuration", OK, config(func(s *Security) { s.PublicTLS, s.PublicListener = false, "10.1.1.1:8008" })},

		{"as many as planned", "plan", OK, func(_, _ *status.Fleet, g *Given) {
			g.Plan = &plan.Plan{Shape: "split", Roles: []plan.RolePlan{{Role: "events", Replicas: 2}, {Role: "uploads"}}}
		}},
		{"fewer than planned", "plan", Warning, func(_, _ *status.Fleet, g *Given) {
			g.Plan = &plan.Plan{Shape: "split", Roles: []plan.RolePlan{{Role: "events", Replicas: 3}}}
		}},
	}
}

func TestRulesOnBothSidesOfTheirLimits(t *testing.T) {
	for _, sc := range append(gaugeScenarios(), otherScenarios()...) {
		t.Run(sc.name, func(t *testing.T) {
			b, a := healthy()
			g := Given{Security: safe(), Now: now}
			sc.change(b, a, &g)
			list := Examine(b, a, g)
			f, ok := worst(list, sc.rule)
			switch {
			case !ok && sc.want != "":
				t.Fatalf("rule %s says nothing; it said: %+v", sc.rule, list)
			case ok && f.Severity != sc.want:
				t.Fatalf("%+v, expected %q", f, sc.want)
			}
			if ok && (f.Severity == Warning || f.Severity == Critical) && (f.What == "" || f.Where == "" || f.Do == "" && f.Rule != "versions") {
				t.Errorf("says not what, where and what to do: %+v", f)
			}
		})
	}
}

func TestTheBottleneckComesFirst(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b, a *status.Fleet)
		want   string
	}{
		"a slow database explains slow commits": {func(b, a *status.Fleet) {
			a.Database.RoundTrip = 0.2
			b.Processes[0].Commit, a.Processes[0].Commit = status.Histogram{}, hist(1000, 0.9)
		}, "The bottleneck is database"},
		"slow commits before slow requests": {func(b, a *status.Fleet) {
			b.Processes[0].Commit, a.Processes[0].Commit = status.Histogram{}, hist(1000, 0.09)
			b.Processes[0].Routes, b.Processes[1].Routes = nil, nil
			a.Processes[0].Routes[0].Latency, a.Processes[1].Routes[0].Latency = hist(1000, 3), hist(1000, 3)
		}, "The bottleneck is machine 0 (all): database write"},
		"CPU of a role": {func(b, a *status.Fleet) {
			for _, f := range []*status.Fleet{b, a} {
				f.Processes[1].Roles = []string{"sync"}
			}
			b.Processes[1].CPU, a.Processes[1].CPU = 0, 16
		}, "The bottleneck is machine 1 (sync): CPU 80 %"},
		"an open Redis": {
			func(_, a *status.Fleet) { a.Redis.Protected = false },
			"Broken or open: redis (redis): it asks for no password. No bottleneck.",
		},
		"an open Redis and a full queue": {func(_, a *status.Fleet) {
			a.Redis.Protected, a.Processes[0].Queued = false, 700
		}, "Broken or open: redis (redis): it asks for no password. The bottleneck is machine 0 (all): queued writes 700"},
	} {
		t.Run(name, func(t *testing.T) {
			b, a := healthy()
			c.change(b, a)
			if h := Headline(Examine(b, a, Given{})); !strings.HasPrefix(h, c.want) {
				t.Error(h)
			}
		})
	}
}

func TestCommandsAreExact(t *testing.T) {
	b, a := healthy()
	for _, f := range []*status.Fleet{b, a} {
		f.Processes[0].Roles, f.Processes[1].Roles = []string{"sync"}, []string{"sync"}
	}
	b.Processes[1].CPU, a.Processes[1].CPU = 0, 19.5 // 97.5 % of two cores: two such need three
	f, _ := worst(Examine(b, a, Given{}), "cpu")
	if f.Do != "lyceum scale sync=3" || f.Severity != Critical {
		t.Errorf("%+v", f)
	}
}

// TestWaitingIsNoLatency holds that the time a /sync request waits for news is not held against it.
func TestWaitingIsNoLatency(t *testing.T) {
	b, a := healthy()
	for _, f := range Examine(b, a, Given{}) {
		if f.Severity != OK && strings.Contains(f.Where, "sync") {
			t.Errorf("%+v", f)
		}
	}
	f, _ := worst(Examine(b, a, Given{SyncAfter: hist(100, 0.6)}), "sync")
	if f.Severity != Warning || !strings.Contains(f.What, "without waiting") {
		t.Errorf("%+v", f)
	}
}

func TestARestartBetweenTheSamplesIsNoNegativeRate(t *testing.T) {
	b, a := healthy()
	a.Processes[1].Incarnation, a.Processes[1].Started, a.Processes[1].CPU = 8, now.Add(-5*time.Second), 1
	for _, f := range Examine(b, a, Given{}) {
		if strings.Contains(f.What, "-") && strings.Contains(f.What, "%") || f.Severity == Critical {
			t.Errorf("%+v", f)
		}
	}
	if list := Examine(nil, a, Given{}); len(list) == 0 {
		t.Error("one sample alone gives nothing")
	}
}

func TestEntropy(t *testing.T) {
	for secret, c := range map[string]struct{ low, high float64 }{
		"":                                 {0, 0},
		"aaaaaaaaaaaaaaaa":                 {0, 1},
		"abcdefghijklmnop":                 {0, 16},
		"password12345678":                 {0, 63},
		"9f8c1b7e2a6d40537e1c9ab8d2f60435": {90, 128},
		"QX7tLr2vNc8bWmK4YhZs6PdGf3Jw9TaE": {100, 200},
	} {
		if got := Entropy(secret); got < c.low || got > c.high {
			t.Errorf("%q: %.0f bits, expected %.0f to %.0f", secret, got, c.low, c.high)
		}
	}
}

func TestManyOfAKindAreCut(t *testing.T) {
	b, a := healthy()
	b.Processes, a.Processes = nil, nil
	_, h := healthy()
	for i := range 20 {
		s := h.Processes[0]
		s.Machine, s.Queued = i, 600+i
		a.Processes = append(a.Processes, s)
	}
	n, more := 0, false
	for _, f := range Examine(b, a, Given{}) {
		if f.Rule == "queue" {
			n++
			more = more || f.Where == "others" && strings.Contains(f.What, "15 more")
		}
	}
	if n != 6 || !more {
		t.Errorf("%d findings", n)
	}
}

func TestRenderers(t *testing.T) {
	b, a := healthy()
	a.Redis.Protected, a.Processes[1].MaxFiles = false, 1024
	list := Examine(b, a, Given{Security: safe()})
	if !Failed(list) {
		t.Error("an open Redis is no failure")
	}
	var plainText, coloured, out bytes.Buffer
	for _, err := range []error{Text(&plainText, list, false), Text(&coloured, list, true), JSON(&out, list)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(plainText.String(), "\x1b") || !strings.Contains(coloured.String(), "\x1b[1;31m") {
		t.Error("colours only when asked for")
	}
	for _, want := range []string{"critical  redis (redis): it asks for no password", "do   set requirepass", "ok        "} {
		if !strings.Contains(plainText.String(), want) {
			t.Errorf("text lacks %q:\n%s", want, plainText.String())
		}
	}
	var back struct {
		Headline string
		Findings []Finding
	}
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Findings) != len(list) || back.Headline == "" {
		t.Errorf("%v %d", err, len(back.Findings))
	}
	if !slices.IsSortedFunc(list, func(x, y Finding) int { return slices.Index(grades, x.Severity) - slices.Index(grades, y.Severity) }) {
		t.Error("not sorted by severity")
	}
	if t.Failed() {
		fmt.Println(plainText.String())
	}
}
