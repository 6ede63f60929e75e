package rooms

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

var eventStream = stream.Spec{Name: "events", Number: 1, Role: "events", Shards: Shards, Lane: "events", PositionKey: "events_pkey"}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "rooms", Migrations: Migrations(), Config: domain.Configured[Config]("Rooms and their events."),
	Streams: []stream.Spec{eventStream},
	Roles: []role.Role{
		{
			Name: "events", Purpose: "orders, checks and stores the events of rooms", Stream: "events", Key: "room",
			Serves: "send, state, membership, redaction",
		},
	},
}
