package push

import (
	"time"

	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// linger lets events come together: for all of them it is asked once whether pushers were changed.
const linger = 50 * time.Millisecond

var notifications = stream.Consumer{Name: "push", Role: "push", Linger: linger}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "push", Migrations: Migrations(), Config: domain.Configured[Config]("Push rules and gateways."),
	Consumers: []stream.Consumer{notifications},
	Roles: []role.Role{
		{Name: "push", Purpose: "tells push gateways of new messages", Serves: "no requests"},
	},
	Restore: []domain.Rule{
		// Those of before were sent since, or are stale.
		{Table: "push_outbox", Rows: "pending notifications", Do: domain.Dropped},
	},
}
