package up

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lyceum/fleet"
)

// maxReplicas is the largest number of processes of a group.
const maxReplicas = 100

// Scale makes a group of roles have n processes. A role that stands in no group by itself gets one of its own.
// It returns what was done, in words, when all new processes serve.
func (u *Supervisor) Scale(ctx context.Context, group string, n int) (string, error) {
	if n < 0 || n > maxReplicas {
		return "", fmt.Errorf("expected 0 to %d processes of %s, found %d", maxReplicas, group, n)
	}
	if _, err := fleet.ParseRoles(strings.Split(group, "+")); err != nil {
		return "", err
	}
	var have []*Child
	numbers := map[int]bool{}
	for _, c := range u.Children() {
		if c.Group == group {
			have = append(have, c)
			number, _ := strconv.Atoi(c.Name[len(group)+1:])
			numbers[number] = true
		}
	}
	sortByUse(have)
	for _, role := range strings.Split(group, "+") {
		if n < len(have) && n == 0 && !u.elsewhere(role, group) {
			return "", fmt.Errorf("nobody else has the role %s: scale a group that has it up first", role)
		}
	}
	if n > len(have) {
		if err := u.checkConnections(ctx, len(u.Children())-len(have)+n); err != nil {
			return "", err
		}
	}
	said := fmt.Sprintf("%s: %d processes, before %d", group, n, len(have))
	for len(have) > n {
		c := have[len(have)-1]
		have = have[:len(have)-1]
		c.stop(ctx)
		u.forget(c)
	}
	var added []string
	for number := 1; len(have)+len(added) < n; number++ {
		if numbers[number] {
			continue
		}
		if err := u.add(group, number); err != nil {
			return said, err
		}
		added = append(added, fmt.Sprintf("%s-%d", group, number))
	}
	for _, c := range u.Children() {
		if slices.Contains(added, c.Name) {
			if err := u.WaitHealthy(ctx, c); err != nil {
				return said, errors.Join(err, u.takeBack(added))
			}
		}
	}
	return said, nil
}

// sortByUse sorts processes of a group: those that serve come first, and among them those of the lowest numbers.
func sortByUse(group []*Child) {
	serves := map[*Child]bool{} // as it is now: it may change while they are sorted
	for _, c := range group {
		serves[c] = c.State().State == "serving"
	}
	number := func(c *Child) int {
		n, _ := strconv.Atoi(c.Name[len(c.Group)+1:]) // add made the name
		return n
	}
	slices.SortFunc(group, func(a, b *Child) int {
		if serves[a] != serves[b] {
			if serves[a] {
				return -1
			}
			return 1
		}
		return number(a) - number(b)
	})
}

// takeBack stops those of the added processes that do not serve, so that none is started again and again. It returns what it did as an
// error, nil when all serve.
func (u *Supervisor) takeBack(added []string) error {
	var stopped []string
	for _, c := range u.Children() {
		if slices.Contains(added, c.Name) && c.State().State != "serving" {
			c.stop(context.Background())
			u.forget(c)
			stopped = append(stopped, c.Name)
		}
	}
	if len(stopped) == 0 {
		return nil
	}
	return fmt.Errorf("taken back, as they did not serve: %s", strings.Join(stopped, ", "))
}

// elsewhere tells whether a process outside the group has the role, or serves it as its pool.
func (u *Supervisor) elsewhere(name, group string) bool {
	pool := ""
	for _, r := range fleet.Roles {
		if r.Name == name {
			pool = r.Pool
		}
	}
	return slices.ContainsFunc(u.Children(), func(c *Child) bool {
		return c.Group != group && (slices.Contains(c.Roles, name) || slices.Contains(c.Roles, fleet.AllRoles) ||
			pool != "" && slices.Contains(c.Roles, pool))
	})
}

func (u *Supervisor) forget(c *Child) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.children = slices.DeleteFunc(u.children, func(o *Child) bool { return o == c })
}
