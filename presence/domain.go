package presence

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

var presenceStream = stream.Spec{
	Name:        "presence",
	Number:      4,
	Role:        "presence",
	Shards:      Shards,
	Lane:        "ephemeral",
	PositionKey: "presence_pos",
}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "presence", Migrations: Migrations(), Config: domain.Configured[Config]("Who is there."),
	Streams: []stream.Spec{presenceStream},
	Roles: []role.Role{
		{Name: "presence", Purpose: "tells who is there", Stream: "presence", Key: "user", Serves: "presence"},
	},
}
