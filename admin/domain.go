package admin

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
)

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "admin",
	Roles: []role.Role{
		{
			Name:    "admin",
			Purpose: "answers the tools of operators, where they have processes of their own",
			Pool:    "client",
			Serves:  "administration, status",
		},
	},
}
