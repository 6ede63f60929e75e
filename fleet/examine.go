package fleet

import (
	"lyceum/accounts"
	"lyceum/admin"
	"lyceum/media"
	"lyceum/ops/doctor"
	"lyceum/ops/plan"
	"lyceum/platform/obs"
	"lyceum/platform/status"
)

// Examine compares two samples of a fleet with the targets of the guides, and with a plan for the load that it has.
func Examine(c *Config, before, after *status.Fleet) []doctor.Finding {
	return examine(c, before, after, plan.Make(admin.LoadOf(before, after), plan.Default(), PlanRoles()))
}

func examine(c *Config, before, after *status.Fleet, p *plan.Plan) []doctor.Finding {
	return doctor.Examine(before, after, doctor.Given{
		Plan: p, Security: security(c), SyncBefore: syncWork(before), SyncAfter: syncWork(after),
		Now: obs.Now(),
	})
}

// syncWork is how long /sync requests worked, without waiting, in all processes.
func syncWork(f *status.Fleet) (h status.Histogram) {
	if f != nil {
		for _, p := range f.Processes {
			h = h.Plus(p.SyncWork)
		}
	}
	return h
}

// security returns what the configuration says about safety, without any secret.
func security(c *Config) *doctor.Security {
	a := SectionOf[accounts.Config](c)
	s := &doctor.Security{
		Registration: a.Registration, RateLimitsOff: c.HTTP.RateLimitsOff, PublicListener: c.Server.Listen,
		PasswordMemoryKiB: int(a.Password.MemoryKiB), PasswordPasses: int(a.Password.Passes),
		PublicTLS: len(c.HTTP.TrustedProxies) > 0, SecretFilesReadable: c.ReadableSecrets(), DirectoryOpen: c.OpenDirectory(),
		UnauthenticatedMedia: SectionOf[media.Config](c).AllowUnauthenticated,
	}
	for name, secret := range map[string]string{
		"fleet.secret": c.Fleet.Secret.Reveal(), "accounts.shared_secret": a.SharedSecret.Reveal(), "redis.password": c.Redis.Password.Reveal(),
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
