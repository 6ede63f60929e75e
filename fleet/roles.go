package fleet

import (
	"fmt"
	"slices"
	"strings"

	"lyceum/platform/role"
)

// Roles is the table of all roles, in the order in which people think of them.
var Roles = []role.Role{
	{Name: "router", Purpose: "takes the requests of clients and passes each to the process that serves it best", Serves: "every path"},
	{Name: "client", Purpose: "answers what reads the database and needs no owner", Serves: "log-in, profiles, room history, keys, settings"},
	{Name: "sync", Purpose: "keeps clients up to date from memory", Key: "user", Serves: "/sync"},
	{Name: "events", Purpose: "orders, checks and stores the events of rooms", Stream: "events", Key: "room", Serves: "send, state, membership, redaction"},
	{Name: "receipts", Purpose: "stores what people have read", Stream: "receipts", Key: "room", Serves: "receipts, read markers"},
	{Name: "typing", Purpose: "tells who is typing", Stream: "typing", Key: "room", Serves: "typing"},
	{Name: "presence", Purpose: "tells who is there", Stream: "presence", Key: "user", Serves: "presence"},
	{Name: "todevice", Purpose: "carries messages between devices", Stream: "to_device", Key: "user", Serves: "sendToDevice"},
	{Name: "accountdata", Purpose: "stores settings and sessions of users", Stream: "account_data", Key: "user", Serves: "account data, tags, push rules"},
	{Name: "devicelists", Purpose: "tells who changed devices or keys", Stream: "device_lists", Key: "user", Serves: "keys, cross-signing, devices"},
	{Name: "push", Purpose: "tells push gateways of new messages", Serves: "no requests"},
	{Name: "media", Purpose: "takes and gives files and makes thumbnails", Key: "media", Serves: "uploads, downloads, thumbnails"},
	{Name: "uploads", Purpose: "takes files, where they have processes of their own", Pool: "media", Serves: "uploads"},
	{Name: "downloads", Purpose: "gives files, where they have processes of their own", Key: "media", Pool: "media", Serves: "downloads"},
	{Name: "thumbnails", Purpose: "makes thumbnails, where they have processes of their own, since they need memory in peaks", Key: "media", Pool: "media", Serves: "thumbnails"},
	{Name: "admin", Purpose: "answers the tools of operators, where they have processes of their own", Pool: "client", Serves: "administration, status"},
}

// allRoles stands for every role in a list.
const allRoles = "all"

// ParseRoles reads a list such as "router,events" or "all".
func ParseRoles(list []string) ([]string, error) {
	var out []string
	for _, name := range list {
		name = strings.TrimSpace(name)
		if name == allRoles {
			return []string{allRoles}, nil
		}
		if !slices.ContainsFunc(Roles, func(r role.Role) bool { return r.Name == name }) {
			return nil, fmt.Errorf("roles: %q is no role: lyceum roles lists them", name)
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return []string{allRoles}, nil
	}
	return out, nil
}

// RolesMarkdown prints the table for people.
func RolesMarkdown() []byte {
	var b strings.Builder
	b.WriteString("| role | what it is for | stream | balanced by | served by, without a process | serves |\n|---|---|---|---|---|---|\n")
	for _, r := range Roles {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Name, r.Purpose, r.Stream, r.Key, r.Pool, r.Serves)
	}
	return []byte(b.String())
}
