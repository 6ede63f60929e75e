package rooms

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/role"
)

// plan is how SQLite goes about a statement.
func plan(ctx context.Context, d *db.DB, query string) (string, error) {
	steps, err := db.List(func(row db.Row) (step string, err error) {
		var id, parent, unused int
		err = row.Scan(&id, &parent, &unused, &step)
		return step, err
	})(d.Query(ctx, "EXPLAIN QUERY PLAN "+query, make([]any, maxArg(query))...))
	return strings.Join(steps, "\n"), err
}

// Relations of an event are found by its id and what else is asked, and in the order of the page: neither those of the whole room
// nor all of the event's are read and sorted.
func TestRelationsAreReadInTheOrderOfAPage(t *testing.T) {
	run(t, func(t *testing.T, p *role.Process, _ *Rooms) {
		if p.DB.Postgres() {
			t.Skip("it chooses by what the tables hold")
		}
		exists := "SELECT 1 FROM events e WHERE EXISTS (" + selectRelated
		for _, c := range []struct{ query, by string }{
			{"SELECT x.event_id" + ofTarget + byPlace + order(true, "$3"), "relations_target (target=? AND room_id=? AND pos>? AND pos<?)"},
			{"SELECT x.pos" + ofTarget + byPlace + order(true, "1 OFFSET $3"), "COVERING INDEX relations_target (target=? AND room_id=? AND " +
				"pos>? AND pos<?)"},
			{"SELECT x.event_id" + ofTargetKind + byPlace + order(false, "$3"), "relations_kind (target=? AND room_id=? AND rel_type=? AND " +
				"pos>? AND pos<?)"},
			{"SELECT x.event_id" + ofTargetKind + " AND x.type = $7" + byPlace + order(false, "$3"), "relations_kind (target=? AND room_id=? AND " +
				"rel_type=? AND pos>? AND pos<?)"},
			{"SELECT x.pos" + ofTargetKind + byPlace + order(false, "1 OFFSET $3"), "COVERING INDEX relations_kind (target=? AND room_id=? AND " +
				"rel_type=? AND pos>? AND pos<?)"},
			{"SELECT x.pos" + ofRoomKind + byPlace + order(true, "1 OFFSET $3"), "COVERING INDEX relations_room (room_id=? AND rel_type=? AND " +
				"pos>? AND pos<?)"},
			{"SELECT x.pos" + ofRoom + byPlace + order(true, "1 OFFSET $3"), "COVERING INDEX events_room (room_id=? AND pos>? AND pos<?)"},
			{countTree, "CO-ROUTINE tree"}, // not "MATERIALIZE", which reads all of it
			{countTree, "SCAN t\nSEARCH x USING INDEX relations_target (target=? AND room_id=?)"},
			{selectTree + " ORDER BY pos LIMIT $6", "SCAN t\nSEARCH x USING INDEX relations_target (target=? AND room_id=?)"},
			{aboveKind + byPlace + order(true, "$3"), "relations_room (room_id=? AND rel_type=? AND pos>? AND pos<?)"},
			{aboveAll + " ORDER BY e.pos" + order(true, "$3"), "events_room (room_id=? AND pos>? AND pos<?)\nSEARCH x USING INDEX " +
				"relations_event (event_id=?)"},
			{selectRoots + newestRoots + ") ORDER BY n.pos DESC LIMIT $3", "relations_room (room_id=? AND rel_type=? AND pos>? AND pos<?)"},
			{selectRoots + newestRoots + ")", "SCAN n\nSEARCH t USING INDEX events_id (event_id=?)"},
			{selectRoots + newestRoots + ")", "relations_kind (target=? AND room_id=? AND rel_type=? AND pos>?)"},
			{selectSame, "relations_same (target=? AND room_id=? AND sender=? AND agg_key=? AND type=?)"},
			{selectKinds, "relations_kind (target=? AND room_id=? AND rel_type=?)"},
			{selectThreads(" AND x.pos > $5 AND NOT (x.sender = ANY($3))"), "relations_kind (target=? AND room_id=? AND rel_type=? AND pos>?)"},
			{selectThreads(""), "relations_sender (target=? AND room_id=? AND sender=? AND rel_type=?)"},
			{selectReferences(""), "relations_kind (target=? AND room_id=? AND rel_type=? AND pos<?)"},
			{selectEdits(""), "relations_sender (target=? AND room_id=? AND sender=? AND rel_type=? AND pos>?)"},
			{selectDated + selectSent, "events_ts (room_id=? AND ts>? AND ts<?)"},
			{exists + "rel_type = ANY($1) LIMIT 9)", "relations_kind (target=? AND room_id=? AND rel_type=?)"},
			{exists + "sender = ANY($1) LIMIT 9)", "relations_sender (target=? AND room_id=? AND sender=?)"},
		} {
			text, err := plan(t.Context(), p.DB, c.query)
			if err != nil || !strings.Contains(text, c.by) || !ranked.MatchString(c.query) && strings.Contains(text, "B-TREE FOR ORDER BY") {
				t.Errorf("expected %s for\n%s\nfound\n%s\n%v", c.by, c.query, text, err)
			}
		}
	})
}

// ranked are statements that sort what they took of an index, which is bounded.
var ranked = regexp.MustCompile(`ranked|ORDER BY (x.target|n.pos)|RECURSIVE tree`)

var argumentOf = regexp.MustCompile(`\$\d`)

// maxArg is the number of arguments of a query.
func maxArg(query string) (n int) {
	for _, m := range argumentOf.FindAllString(query, -1) {
		n = max(n, int(m[1]-'0'))
	}
	return n
}
