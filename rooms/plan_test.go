package rooms

import (
	"strings"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/role"
)

// Relations of an event are found by its id, not by reading those of the whole room.
func TestRelationsAreFoundByTheirTarget(t *testing.T) {
	run(t, func(t *testing.T, p *role.Process, _ *Rooms) {
		if p.DB.Postgres() {
			t.Skip("it chooses by what the tables hold")
		}
		for _, query := range []string{selectRelations, selectSame, "SELECT 1 FROM events e WHERE " + relatedBy + " AND x.rel_type = 'm.thread')"} {
			var plan []string
			err := db.Each(func(row db.Row) error {
				var id, parent, unused int
				var step string
				err := row.Scan(&id, &parent, &unused, &step)
				plan = append(plan, step)
				return err
			})(p.DB.Query(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, maxArg(query))...))
			text := strings.Join(plan, "\n")
			if err != nil || strings.Contains(text, "relations_room") || !strings.Contains(text, "(target=?") {
				t.Errorf("%s\n%s\n%v", query, text, err)
			}
		}
	})
}

// maxArg is the number of arguments of a query.
func maxArg(query string) (n int) {
	for _, part := range strings.Split(query, "$")[1:] {
		n = max(n, int(part[0]-'0'))
	}
	return n
}
