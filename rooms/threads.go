package rooms

import (
	"context"
	"fmt"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// The threads of a window with their newest events, but those that have a newer one, which a page before has given.
const (
	selectRoots = `SELECT n.target, n.pos FROM (SELECT x.target, MAX(x.pos) AS pos` + ofRoomKind + ` AND NOT (x.sender = ANY($6))`
	newestRoots = ` GROUP BY x.target) n CROSS JOIN events t
		WHERE t.event_id = n.target AND t.room_id = $5 AND NOT EXISTS (SELECT 1` + relationsTo + `$4 AND x.pos >= $2 AND NOT (x.sender = ANY($6))`
)

// threadRoots finds the threads whose newest events lie before a place, the newest first, and where those are.
func (r *Rooms) threadRoots(
	ctx context.Context, v roomView, s eventRange, mine bool,
) (ids []string, ends []int64, w rangeWindow, err error) {
	visible, err := r.visibleRangesOf(ctx, v.membershipView)
	if err != nil {
		return nil, nil, w, err
	}
	ignored, err := r.Accounts.Ignored(ctx, v.user)
	if err != nil {
		return nil, nil, w, err
	}
	s.from, s.to = min(s.from, v.upto), 0
	if w, err = r.limitRange(ctx, s, ofRoomKind, relThread, v.head.RoomID); err != nil {
		return nil, nil, w, err
	}
	seen, args := visible.where("x.pos", []any{w.after, w.before, s.limit + 1, relThread, v.head.RoomID, listOf(ignored)})
	query := selectRoots + seen + newestRoots + seen + ")"
	if mine {
		args = append(args, v.user)
		query += fmt.Sprintf(" AND (t.sender = $%[1]d OR EXISTS (SELECT 1"+relationsTo+"$4 AND x.sender = $%[1]d%[2]s))", len(args), seen)
	}
	err = db.Each(func(row db.Row) error {
		var id string
		var end int64
		err := row.Scan(&id, &end)
		ids, ends = append(ids, id), append(ends, end)
		return err
	})(r.Process.DB.Query(ctx, query+" ORDER BY n.pos DESC LIMIT $3", args...))
	return ids, ends, w, err
}

// maxThreadHops is how many relations are followed to find the thread of an event (Client-Server API, "Threaded read receipts").
const maxThreadHops = 3

// ThreadRoot follows the relations of an event to the root of the thread that it is in. root is "" for an event of the main
// timeline; through are the ids of the events on the way, without e and without the root.
func (r *Rooms) ThreadRoot(ctx context.Context, e *Event) (root string, through []string, err error) {
	for hop := 0; ; hop++ {
		if e.IsState() {
			return "", through, nil
		}
		relates := matrix.Lookup(e.Content, "m.relates_to")
		target, _ := matrix.LookupString(relates, "event_id")
		if kind, _ := matrix.LookupString(relates, "rel_type"); kind == relThread {
			return target, through, nil
		}
		if target == "" || hop == maxThreadHops {
			return "", through, nil
		}
		next, err := r.Event(ctx, target)
		if err != nil {
			return "", nil, err
		}
		if next == nil || next.RoomID != e.RoomID {
			return "", through, nil
		}
		through, e = append(through, next.ID), next
	}
}
