package up

import (
	"strings"

	"lyceum/fleet"
)

// MissingRoles are the roles that no process has, nor one of a role that serves them as well.
func MissingRoles(c *fleet.UpConfig) []string {
	has := map[string]bool{}
	for group, n := range Replicas(c) {
		for _, name := range strings.Split(group, "+") {
			has[name] = has[name] || n > 0
		}
	}
	var out []string
	for _, r := range fleet.Roles {
		if !has[r.Name] && !has[fleet.AllRoles] && (r.Pool == "" || !has[r.Pool]) {
			out = append(out, r.Name)
		}
	}
	return out
}

// Replicas are the groups of roles and how many processes each has at the start.
func Replicas(c *fleet.UpConfig) map[string]int {
	if len(c.Replicas) == 0 {
		return DefaultReplicas()
	}
	return c.Replicas
}

// DefaultReplicas is a small fleet: two of every writer, so that any process may die.
func DefaultReplicas() map[string]int {
	return map[string]int{
		"router+client+media": 1, "sync+push": 1, "events": 2, "receipts+typing+presence+todevice+accountdata+devicelists": 2,
	}
}

// EachRole is a fleet in which each role has its own process, and each writer two. Roles that another one
// serves as well have none.
func EachRole() map[string]int {
	out := map[string]int{}
	for _, r := range fleet.Roles {
		if r.Pool != "" {
			continue
		}
		out[r.Name] = 1
		if r.Stream != "" {
			out[r.Name] = 2
		}
	}
	return out
}
