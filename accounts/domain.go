package accounts

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

var (
	sessionStream    = stream.Spec{Name: "sessions", Number: 8, Role: "accountdata", Shards: 4, Lane: "sessions"}
	dataStream       = stream.Spec{Name: "account_data", Number: 7, Role: "accountdata", Shards: 16}
	followUpConsumer = stream.Consumer{Name: "accounts", Role: "accountdata"}
)

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "accounts", Migrations: Migrations(), Config: domain.Configured[Config]("Users, registration and log-in."),
	Streams: []stream.Spec{sessionStream, dataStream}, Consumers: []stream.Consumer{followUpConsumer},
	Roles: []role.Role{
		{
			Name: "accountdata", Purpose: "stores settings and sessions of users", Stream: "account_data", Key: "user",
			Serves: "account data, tags, push rules",
		},
	},
}
