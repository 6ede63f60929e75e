package fleet

import (
	"lyceum/accounts"
	"lyceum/admin"
	"lyceum/devices"
	"lyceum/directory"
	"lyceum/media"
	"lyceum/platform/db"
	"lyceum/platform/domain"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/reports"
	"lyceum/rooms"
	"lyceum/syncapi"
	"lyceum/typing"
)

// Domains are all domains of this build; each stands on those before it. A new one is a line here, and its
// constructor in wire.go.
var Domains = []domain.Domain{
	own,
	accounts.Domain,
	rooms.Domain,
	devices.Domain,
	directory.Domain,
	reports.Domain,
	media.Domain,
	receipts.Domain,
	typing.Domain,
	presence.Domain,
	push.Domain,
	syncapi.Domain,
	admin.Domain,
}

// own is what the fleet itself declares: leases and its few rows, and the roles that belong to no domain.
var own = domain.Domain{
	Name: "lease", Migrations: lease.Migrations(),
	Roles: []role.Role{
		{Name: "router", Purpose: "takes the requests of clients and passes each to the process that serves it best", Serves: "every path"},
		{Name: "client", Purpose: "answers what reads the database and needs no owner", Serves: "log-in, profiles, room history, keys, settings"},
	},
	Restore: []domain.Rule{
		{Table: "machines", Rows: "processes that ran", Do: domain.Skipped},
		{Table: "leases", Rows: "owners of shards and jobs", Do: domain.Rewritten},
		{Table: "fleet", Rows: "agreements of processes", Do: domain.Rewritten},
	},
}

// Collect joins what the domains declare of one kind.
func Collect[T any](of func(domain.Domain) []T) []T {
	var out []T
	for _, d := range Domains {
		out = append(out, of(d)...)
	}
	return out
}

// Migrations are the schemas of all domains.
func Migrations() []db.Migrations {
	return Collect(func(d domain.Domain) []db.Migrations {
		if d.Migrations.Files == nil {
			return nil
		}
		return []db.Migrations{d.Migrations}
	})
}
