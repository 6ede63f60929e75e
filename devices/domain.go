package devices

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// ListShards is the number of shards of the stream device_lists; it never changes in the life of a database.
const ListShards = 8

var (
	toDeviceStream = stream.Spec{Name: "to_device", Number: 6, Role: "todevice", Shards: 16, PositionKey: "to_device_pkey"}
	listStream     = stream.Spec{Name: "device_lists", Number: 5, Role: "devicelists", Shards: ListShards, PositionKey: "device_lists_pos"}
)

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "devices", Migrations: Migrations(), Config: domain.Configured[Config]("Devices and their keys."),
	Streams: []stream.Spec{toDeviceStream, listStream},
	Roles: []role.Role{
		{Name: "todevice", Purpose: "carries messages between devices", Stream: "to_device", Key: "user", Serves: "sendToDevice"},
		{
			Name:    "devicelists",
			Purpose: "tells who changed devices or keys",
			Stream:  "device_lists",
			Key:     "user",
			Serves:  "keys, cross-signing, devices",
		},
	},
	Restore: []domain.Rule{
		// A key that was given out since must not be given out again: its receiver has thrown its half away.
		// Clients upload new ones when they see none.
		{Table: "one_time_keys", Rows: "one-time keys", Do: domain.Dropped},
	},
}
