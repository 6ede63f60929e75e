package typing

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

var typingStream = stream.Spec{Name: "typing", Number: 3, Role: "typing", Shards: Shards, Lane: "ephemeral", PositionKey: "typing_pos"}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "typing", Migrations: Migrations(),
	Streams: []stream.Spec{typingStream},
	Roles: []role.Role{
		{Name: "typing", Purpose: "tells who is typing", Stream: "typing", Key: "room", Serves: "typing"},
	},
}
