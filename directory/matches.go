package directory

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// match is an event whose text has the words. It holds the share of the text that the words take instead of the text, which may be long.
type match struct {
	id   string
	ts   int64
	rank float64
}

// search finds the newest matches that the user may see, the newest first. last is where the search goes on when one request could not look
// at all of them, else the zero cursor.
func (d *Directory) search(
	ctx context.Context, userID string, c *criteria, f *event.Filter, from cursor,
) (hits []hit, last cursor, err error) {
	ids, err := d.roomsToSearch(ctx, userID, f)
	if err != nil {
		return nil, last, err
	}
	fresh, err := d.unindexed(ctx, c, ids, from) // before what is indexed is read: an event is in one of them, or in both
	if err != nil {
		return nil, last, err
	}
	all, err := d.indexedMatches(ctx, c, ids, from)
	if err != nil {
		return nil, last, err
	}
	known := make(map[string]bool, len(all))
	for _, m := range all {
		known[m.id] = true
	}
	all = append(all, slices.DeleteFunc(fresh, func(m match) bool { return known[m.id] })...)
	slices.SortFunc(all, func(a, b match) int { return cmp.Or(cmp.Compare(b.ts, a.ts), cmp.Compare(b.id, a.id)) })
	if len(all) >= searchLooked {
		all = all[:searchLooked]
		last = cursor{ts: all[searchLooked-1].ts, id: all[searchLooked-1].id}
	}
	order := make([]string, len(all))
	ranks := make(map[string]float64, len(all))
	for i, m := range all {
		order[i], ranks[m.id] = m.id, m.rank
	}
	hits, err = d.visibleHits(ctx, userID, f, order, ranks)
	return hits, last, err
}

// roomsToSearch are the rooms to search: those of the user that the filter lets through, and those that they replaced.
func (d *Directory) roomsToSearch(ctx context.Context, userID string, f *event.Filter) ([]string, error) {
	all, err := d.Rooms.Memberships(ctx, userID)
	if err != nil {
		return nil, err
	}
	ids, others := []string{}, map[string]bool{}
	for _, m := range all {
		switch {
		case m.Forgotten:
		case f.Room(m.RoomID):
			ids = append(ids, m.RoomID)
		case !slices.Contains(f.NotRooms, m.RoomID):
			others[m.RoomID] = true
		}
	}
	for i := 0; i < len(ids) && len(others) > 0; i++ {
		before, err := d.predecessor(ctx, ids[i])
		if err != nil {
			return nil, err
		}
		if others[before] {
			delete(others, before)
			ids = append(ids, before)
		}
	}
	return ids, nil
}

// predecessor is the room that a room says it replaced; "" for none.
func (d *Directory) predecessor(ctx context.Context, roomID string) (string, error) {
	h, ok, err := d.Rooms.Head(ctx, roomID)
	if err != nil || !ok {
		return "", err
	}
	key := state.Key{Type: event.TypeCreate}
	found, err := d.Rooms.StateEvents(ctx, h.Root, key)
	if err != nil || found[key] == nil {
		return "", err
	}
	before, _ := matrix.LookupString(matrix.Lookup(found[key].Content, "predecessor"), "room_id")
	return before, nil
}

// indexedMatches reads the newest matches from the index.
func (d *Directory) indexedMatches(ctx context.Context, c *criteria, roomIDs []string, from cursor) ([]match, error) {
	term := lowerCase(c.Term)
	where, args := likeAll("body", term)
	args = append(args, roomIDs, from.ts, from.id, searchLooked)
	n := len(args)
	where += " AND room_id = ANY(" + dollar(n-3) + ")" +
		" AND (ts < " + dollar(n-2) + " OR ts = " + dollar(n-2) + " AND event_id < " + dollar(n-1) + ")"
	if len(c.Keys) > 0 {
		args = append(args, c.Keys)
		where += " AND part = ANY(" + dollar(n+1) + ")"
	}
	wanted := words(term)
	return db.List(func(row db.Row) (m match, err error) {
		var body string
		err = row.Scan(&m.id, &m.ts, &body)
		m.rank = rank(body, wanted)
		return m, err
	})(d.Process.DB.Query(ctx, "SELECT event_id, ts, body FROM search_texts WHERE "+where+
		" ORDER BY ts DESC, event_id DESC LIMIT "+dollar(n), args...))
}

const (
	unindexedAtOnce = 100  // events of a shard that are read at once
	unindexedMost   = 1000 // and at most so many of a shard; later ones are found once they are indexed
)

// unindexed finds matches among the events that the index does not have yet, so that a new message can be found at once.
func (d *Directory) unindexed(ctx context.Context, c *criteria, roomIDs []string, from cursor) ([]match, error) {
	st := d.Rooms.Stream()
	done, err := st.ConsumedBy(ctx, index.Name)
	if err != nil {
		return nil, err
	}
	byShard := map[int]map[string]bool{}
	for _, id := range roomIDs {
		shard := st.Shard(id)
		if byShard[shard] == nil {
			byShard[shard] = map[string]bool{}
		}
		byShard[shard][id] = true
	}
	var out []match
	wanted := words(lowerCase(c.Term))
	for shard, ids := range byShard {
		after := done[shard]
		for read := 0; read < unindexedMost; read += unindexedAtOnce {
			rows, err := st.Read(ctx, stream.Range{Shard: shard, After: after, Upto: math.MaxInt64, Limit: unindexedAtOnce})
			if err != nil {
				return nil, err
			}
			for _, row := range rows {
				after = row.Pos
				if e, err := d.Rooms.FromRow(row); err != nil {
					return nil, err
				} else if m, ok := c.match(e, wanted); ok && ids[e.RoomID] && from.behind(m.ts, m.id) {
					out = append(out, m)
				}
			}
			if len(rows) < unindexedAtOnce {
				break
			}
		}
	}
	return out, nil
}

// match tells whether the text of an event has all words, as the index would.
func (c *criteria) match(e *rooms.Event, wanted []string) (match, bool) {
	part, body := textOf(e)
	if body == "" || len(c.Keys) > 0 && !slices.Contains(c.Keys, part) {
		return match{}, false
	}
	body = lowerCase(body)
	for _, word := range wanted {
		if !strings.Contains(body, word) {
			return match{}, false
		}
	}
	return match{e.ID, e.OriginServerTS, rank(body, wanted)}, true
}
