package media

import (
	"lyceum/platform/domain"
	"lyceum/platform/role"
)

// Domain is the declaration of the package.
var Domain = domain.Domain{
	Name: "media", Migrations: Migrations(), Config: domain.Configured[Config]("Uploads, downloads and thumbnails."),
	Roles: []role.Role{
		{Name: "media", Purpose: "takes and gives files and makes thumbnails", Key: "media", Serves: "uploads, downloads, thumbnails"},
		{Name: "uploads", Purpose: "takes files, where they have processes of their own", Pool: "media", Serves: "uploads"},
		{Name: "downloads", Purpose: "gives files, where they have processes of their own", Key: "media", Pool: "media", Serves: "downloads"},
		{
			Name:    "thumbnails",
			Purpose: "makes thumbnails, where they have processes of their own, since they need memory in peaks",
			Key:     "media",
			Pool:    "media",
			Serves:  "thumbnails",
		},
	},
	Blobs: []domain.Blob{
		{Table: "media", Column: "sha256", Prefix: "media/"},
		{Table: "thumbnails", Column: "sha256", Prefix: "media/"}, // what it was made of
		{Table: "thumbnails", Column: "blob"},
	},
}
