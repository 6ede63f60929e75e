package rooms

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/rooms/state"
)

// visibleRanges is which messages of a room a user may see, by their positions: what is counted or ranked in the database is
// bounded by it.
type visibleRanges struct {
	all          bool
	ranges       []positionRange // else these, the newest first
	memberRanges []positionRange // when the user was a member, in order, as far as they are known
}

// positionRange are positions, both ends among them.
type positionRange struct{ from, to int64 }

const (
	maxVisibilityChanges = 500 // changes of history visibility or of a membership that are followed
	maxVisibleRanges     = 50  // what is older than these is not counted
)

// visibilityChange is a position at which the visibility of what comes next may change.
type visibilityChange struct {
	pos                 int64
	history, membership string // "" for unchanged
}

// visibleRangesOf finds what a user may see of a room. It is Visibility.Visible of its messages; where visibility or membership changed
// very often, the oldest are left out.
func (r *Rooms) visibleRangesOf(ctx context.Context, s membershipView) (visibleRanges, error) {
	if s.joined() {
		if all, err := r.alwaysShared(ctx, s.head.Root); err != nil || all {
			return visibleRanges{all: true}, err
		}
	}
	changes, begin, err := r.visibilityChanges(ctx, s)
	if err != nil {
		return visibleRanges{}, err
	}
	out := visibleRanges{}
	now := visibilityState{history: shared, membership: event.MembershipLeave}
	for i, t := range changes {
		if t.history != "" {
			now.history = t.history
		}
		if t.membership != "" {
			now.membership = t.membership
		}
		p := positionRange{t.pos + 1, math.MaxInt64}
		if i+1 < len(changes) {
			p.to = changes[i+1].pos
		}
		if p.from > begin && now.membership == event.MembershipJoin {
			out.memberRanges = appendRange(out.memberRanges, p)
		}
		if now.history == shared && now.membership != event.MembershipJoin {
			p.to = min(p.to, s.memberUntil-1)
		}
		if p.from <= begin || p.from > p.to || !now.allows(s, p.from) {
			continue
		}
		out.ranges = appendRange(out.ranges, p)
	}
	slices.Reverse(out.ranges)
	out.ranges = out.ranges[:min(len(out.ranges), maxVisibleRanges)]
	return out, nil
}

// appendRange adds a part that comes behind the others.
func appendRange(parts []positionRange, p positionRange) []positionRange {
	if n := len(parts); n > 0 && parts[n-1].to == p.from-1 {
		parts[n-1].to = p.to
		return parts
	}
	return append(parts, p)
}

// visibilityChanges reads the changes of a room's history visibility and of a user's membership, from the newest back, and gives
// them in order. What is not behind begin is not known.
func (r *Rooms) visibilityChanges(ctx context.Context, s membershipView) (out []visibilityChange, begin int64, err error) {
	keys := []state.Key{{Type: event.TypeHistoryVisibility}, {Type: event.TypeMember, StateKey: s.pastMember()}}
	found, err := r.StateEvents(ctx, s.head.Root, keys...)
	if err != nil {
		return nil, 0, err
	}
	out = []visibilityChange{{history: shared, membership: event.MembershipLeave}}
	for _, e := range found {
		n := 0
		add := func(pos int64, content []byte) {
			t := visibilityChange{pos: pos}
			if e.Type == event.TypeHistoryVisibility {
				t.history = historyOf(content)
			} else if t.membership, _ = matrix.LookupString(content, "membership"); t.membership == "" {
				t.membership = event.MembershipLeave
			}
			out = append(out, t)
		}
		if e.Replaces == "" {
			add(e.Pos, e.Content)
			continue
		}
		err := db.Each(func(row db.Row) error {
			var pos int64
			var text []byte
			if err := row.Scan(&pos, &text); err != nil {
				return err
			}
			add(pos, matrix.Lookup(text, "content"))
			if n++; n == maxVisibilityChanges {
				begin = max(begin, pos)
			}
			return nil
		})(r.Process.DB.Query(ctx, `WITH RECURSIVE turns (pos, json, replaces, n) AS (
			SELECT e.pos, e.json, e.replaces, 1 FROM events e WHERE e.event_id = $1
			UNION ALL
			SELECT e.pos, e.json, e.replaces, t.n + 1 FROM events e JOIN turns t ON e.event_id = t.replaces WHERE t.n < $2
			) SELECT pos, json FROM turns`, e.ID, maxVisibilityChanges))
		if err != nil {
			return nil, 0, err
		}
	}
	slices.SortStableFunc(out, func(a, b visibilityChange) int { return int(a.pos - b.pos) })
	return out, begin, nil
}

// contains tells whether a message at a position is seen.
func (v visibleRanges) contains(pos int64) bool {
	return v.all || anyContains(v.ranges, pos)
}

// wasMember tells whether the user was a member before and after a position that is not of a membership of the user.
func (v visibleRanges) wasMember(pos int64) bool { return anyContains(v.memberRanges, pos) }

func anyContains(parts []positionRange, pos int64) bool {
	return slices.ContainsFunc(parts, func(p positionRange) bool { return p.from <= pos && pos <= p.to })
}

// where gives a condition on a column with the arguments before it and those that it adds.
func (v visibleRanges) where(column string, args []any) (string, []any) {
	if v.all {
		return "", args
	}
	if len(v.ranges) == 0 {
		return " AND 1 = 0", args
	}
	conditions := make([]string, len(v.ranges))
	for i, p := range v.ranges {
		conditions[i] = fmt.Sprintf("%s BETWEEN $%d AND $%d", column, len(args)+1, len(args)+2)
		args = append(args, p.from, p.to)
	}
	return " AND (" + strings.Join(conditions, " OR ") + ")", args
}
