package fleet

import (
	"os"

	"lyceum/doctor"
	"lyceum/plan"
	"lyceum/platform/obs"
	"lyceum/platform/status"
)

// shardCounts are the shards of the streams; a test compares them with those that the domains open.
var shardCounts = map[string]int{
	"events": 16, "receipts": 8, "typing": 8, "presence": 8, "device_lists": 8, "to_device": 16, "account_data": 16, "sessions": 4,
}

// PlanRoles is the table of roles as package plan wants it.
func PlanRoles() []plan.Role {
	var out []plan.Role
	for _, r := range Roles {
		out = append(out, plan.Role{Name: r.Name, Stream: r.Stream, Pool: r.Pool, Shards: shardCounts[r.Stream]})
	}
	return out
}

// ReadCapacities reads the capacities of this hardware from a file; "" gives those measured with the release.
func ReadCapacities(path string) (*plan.Capacities, error) {
	if path == "" {
		return plan.Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return plan.ReadCapacities(f)
}

// syncRoute is the route on which clients wait.
const syncRoute = "GET /_matrix/client/v3/sync"

// LoadOf estimates the load of a fleet between two looks at it.
func LoadOf(before, after *status.Fleet) plan.Load {
	var l plan.Load
	rows := func(f *status.Fleet) (n float64) {
		for _, st := range f.Streams {
			if st.Name == "events" {
				for _, sh := range st.Shards {
					n += float64(sh.Position)
				}
			}
		}
		return n
	}
	if seconds := after.At.Sub(before.At).Seconds(); seconds > 0 {
		l.MessagesPerSecond = max(0, rows(after)-rows(before)) / seconds
	}
	for _, p := range after.Processes {
		for _, r := range p.Routes {
			if r.Pattern == syncRoute && (p.Has("sync") || len(after.Processes) == 1) {
				l.ConcurrentUsers += r.InFlight
			}
		}
	}
	return l
}

// PlanNow is the plan for the load that the fleet has now.
func PlanNow(before, after *status.Fleet) *plan.Plan {
	return plan.Make(LoadOf(before, after), plan.Default(), PlanRoles())
}

// Examine compares two looks at a fleet with the targets.
func Examine(c *Config, before, after *status.Fleet) []doctor.Finding {
	sum := func(f *status.Fleet) (h status.Histogram) {
		for _, p := range f.Processes {
			h = h.Plus(p.SyncWork)
		}
		return h
	}
	return doctor.Examine(before, after, doctor.Given{
		Plan: PlanNow(before, after), Security: security(c), SyncBefore: sum(before), SyncAfter: sum(after), Now: obs.Now(),
	})
}

// security is what may be told of the configuration's safety: no secret is in it.
func security(c *Config) *doctor.Security {
	s := &doctor.Security{
		Registration: c.Accounts.Registration, RateLimitsOff: c.HTTP.RateLimitsOff, PublicListener: c.Server.Listen,
		PasswordMemoryKiB: int(c.Accounts.Password.MemoryKiB), PasswordPasses: int(c.Accounts.Password.Passes),
		PublicTLS: len(c.HTTP.TrustedProxies) > 0,
	}
	for name, secret := range map[string]string{
		"fleet.secret": c.Fleet.Secret.Reveal(), "accounts.shared_secret": c.Accounts.SharedSecret.Reveal(), "redis.password": c.Redis.Password.Reveal(),
	} {
		if secret != "" {
			s.Secrets = append(s.Secrets, doctor.Secret{Name: name, Length: len(secret), Entropy: doctor.Entropy(secret)})
		}
	}
	for _, p := range c.HTTP.TrustedProxies {
		if p == "0.0.0.0/0" || p == "::/0" {
			s.TrustsEveryProxy = true
		}
	}
	return s
}
