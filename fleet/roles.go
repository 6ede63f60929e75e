package fleet

import (
	"fmt"
	"slices"
	"strings"

	"lyceum/ops/plan"
	"lyceum/platform/domain"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// Roles is the table of all roles, in readingOrder.
var Roles = inReadingOrder(Collect(func(d domain.Domain) []role.Role { return d.Roles }))

// readingOrder has the names of roles in the order of a request through the fleet; roles that it does not name come last.
var readingOrder = strings.Fields("router client sync events receipts typing presence todevice accountdata devicelists push media " +
	"uploads downloads thumbnails admin")

func inReadingOrder(roles []role.Role) []role.Role {
	place := func(r role.Role) int {
		if i := slices.Index(readingOrder, r.Name); i >= 0 {
			return i
		}
		return len(readingOrder)
	}
	slices.SortStableFunc(roles, func(a, b role.Role) int { return place(a) - place(b) })
	return roles
}

// AllRoles stands for every role in a list.
const AllRoles = "all"

// ParseRoles reads a list such as "router,events" or "all".
func ParseRoles(list []string) ([]string, error) {
	var out []string
	for _, name := range list {
		name = strings.TrimSpace(name)
		if name == AllRoles {
			return []string{AllRoles}, nil
		}
		if !slices.ContainsFunc(Roles, func(r role.Role) bool { return r.Name == name }) {
			return nil, fmt.Errorf("roles: %q is no role: lyceum roles lists them", name)
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return []string{AllRoles}, nil
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

// PlanRoles is the table of roles as package plan wants it.
func PlanRoles() []plan.Role {
	shards := map[string]int{}
	for _, st := range Collect(func(d domain.Domain) []stream.Spec { return d.Streams }) {
		shards[st.Name] = st.Shards
	}
	var out []plan.Role
	for _, r := range Roles {
		out = append(out, plan.Role{Name: r.Name, Stream: r.Stream, Pool: r.Pool, Shards: shards[r.Stream]})
	}
	return out
}
