package directory

import (
	"lyceum/platform/domain"
	"lyceum/platform/stream"
)

var index = stream.Consumer{Name: "search", Role: "client", Batch: indexAtOnce, Linger: indexAfter}

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "directory", Migrations: Migrations(), Config: domain.Configured[Config]("Search for rooms, people and messages."),
	Consumers: []stream.Consumer{index},
}
