package receipts

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

var receiptStream = stream.Spec{
	Name:        "receipts",
	Number:      2,
	Role:        "receipts",
	Shards:      Shards,
	Lane:        "receipts",
	PositionKey: "receipts_pos",
}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "receipts", Migrations: Migrations(),
	Streams: []stream.Spec{receiptStream},
	Roles: []role.Role{
		{Name: "receipts", Purpose: "stores what people have read", Stream: "receipts", Key: "room", Serves: "receipts, read markers"},
	},
}
