package fleet

import (
	"slices"

	"lyceum/platform/web"
)

const (
	clientV3 = "/_matrix/client/v3/"
	clientV1 = "/_matrix/client/v1/"
	mediaV3  = "/_matrix/media/v3/"
	mediaV1  = "/_matrix/media/v1/"
	unstable = "/_matrix/client/unstable/"
)

// olderVersions are the paths that endpoints had in older versions of the specification, and Synapse's for what was not in it yet.
// Clients that are still in use ask for them: matrix-nio 0.20 knows no others, and Cinny sets up cross-signing at an unstable one.
var olderVersions = []web.OldPath{
	{Prefix: "/_matrix/client/r0/", Now: clientV3},
	{Prefix: "/_matrix/client/api/v1/", Now: clientV3},
	{Prefix: unstable, Now: clientV3}, // keys/device_signing/upload, room_keys, …
	{Prefix: unstable, Now: clientV1}, // rooms/{roomID}/relations, …
	{Prefix: "/_matrix/media/r0/", Now: mediaV3},
	{Prefix: "/_matrix/media/v1/", Now: mediaV3},
}

// proposals are the paths that endpoints had while they were proposals (MSCs).
var proposals = []web.OldPath{
	{Prefix: "/_matrix/media/unstable/fi.mau.msc2246/", Now: mediaV1},
	{Prefix: "/_matrix/media/unstable/fi.mau.msc2246/", Now: mediaV3},
	{Prefix: unstable + "org.matrix.msc2432/", Now: clientV3}, // aliases of a room
	{Prefix: unstable + "org.matrix.msc2946/", Now: clientV1}, // hierarchy of spaces
	{Prefix: unstable + "org.matrix.msc3030/", Now: clientV1}, // event at a time
	{Prefix: unstable + "org.matrix.msc3231/", Now: clientV1}, // validity of a registration token
	{Prefix: unstable + "org.matrix.msc3391/", Now: clientV3}, // deletion of account data
	{Prefix: unstable + "org.matrix.msc3856/", Now: clientV1}, // threads
	{Prefix: unstable + "org.matrix.msc3916/media/", Now: clientV1 + "media/"},
	{Prefix: unstable + "org.matrix.msc4151/", Now: clientV3}, // report of a room
	{Prefix: unstable + "org.matrix.msc4260/", Now: clientV3}, // report of a user
	{Prefix: unstable + "uk.tcpip.msc4133/", Now: clientV3},   // fields of a profile
	{Prefix: unstable + "im.nheko.summary/summary/", Now: clientV1 + "room_summary/"},
	{Prefix: unstable + "xyz.amorgan.knock/", Now: clientV3},
}

func oldPaths() []web.OldPath { return slices.Concat(olderVersions, proposals) }

// AllRoutes are the routes of the process, with their paths in older versions of the specification.
func (p *Process) AllRoutes() []web.Route { return web.WithOldPaths(p.domains.routes, olderVersions) }
