package rooms

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/rooms/state"
)

// nodeReader reads the nodes of state trees.
type nodeReader struct{ db *db.DB }

// nodeMemory is how many bytes of nodes a process keeps.
const nodeMemory = 32 << 20

// LoadNodes implements state.Loader.
func (c nodeReader) LoadNodes(ctx context.Context, ids []state.ID) (map[state.ID][]byte, error) {
	out := make(map[state.ID][]byte, len(ids))
	for len(ids) > 0 {
		n := min(nodesAtOnce, len(ids))
		if err := c.read(ctx, ids[:n], out); err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	return out, nil
}

func (c nodeReader) read(ctx context.Context, ids []state.ID, into map[state.ID][]byte) error {
	query, args := "SELECT id, node FROM state_nodes WHERE id IN (", make([]any, len(ids))
	for i, id := range ids {
		args[i] = id.Bytes()
	}
	return db.Each(func(row db.Row) error {
		var id, text []byte
		if err := row.Scan(&id, &text); err != nil {
			return err
		}
		into[state.IDFrom(id)] = text
		return nil
	})(c.db.Query(ctx, query+db.Placeholders(len(ids))+")", args...))
}

// Events reads events by id; those that are not there are left out.
func (r *Rooms) Events(ctx context.Context, ids []string) (map[string]*Event, error) {
	out := make(map[string]*Event, len(ids))
	if _, err := r.eventsWithin(ctx, ids, math.MaxInt, out); err != nil {
		return nil, err
	}
	return out, nil
}

// errTooLarge says that events have more bytes than may be held.
var errTooLarge = errors.New("the events are too large to be held at once")

// eventsWithin adds events to a map and returns how many bytes they have. It ends with errTooLarge once there are more
// than maxBytes.
func (r *Rooms) eventsWithin(ctx context.Context, ids []string, maxBytes int, into map[string]*Event) (size int, err error) {
	var missing []string
	active := r.redactionFeed.IsActive()
	for _, id := range ids {
		if !active {
			missing = append(missing, id)
		} else if e, ok := r.cache.GetIfPresent(id); ok {
			into[id] = e
			if size += e.size(); size > maxBytes {
				return size, errTooLarge
			}
		} else {
			missing = append(missing, id)
		}
	}
	for len(missing) > 0 {
		n := min(nodesAtOnce, len(missing))
		before := r.redactions.Load()
		var events []*Event
		err := db.Each(func(row db.Row) error {
			e, err := scanEvent(row)
			if err != nil {
				return err
			}
			events = append(events, e)
			into[e.ID] = e
			if size += e.size(); size > maxBytes {
				return errTooLarge
			}
			return nil
		})(r.Process.DB.Query(ctx, selectEvents+"e.event_id = ANY($1)", missing[:n]))
		if active && (err == nil || errors.Is(err, errTooLarge)) {
			r.cacheEvents(events, before)
		}
		if err != nil {
			return size, err
		}
		missing = missing[n:]
	}
	return size, nil
}

// Event reads one event; nil when it is not there.
func (r *Rooms) Event(ctx context.Context, id string) (*Event, error) {
	found, err := r.Events(ctx, []string{id})
	return found[id], err
}

// Head is the newest point of a room.
type Head struct {
	RoomID  string
	Version event.Version
	Pos     int64
	Root    state.ID
	EventID string
	Depth   int64
}

// Head reads where a room is; not ok when there is no such room.
func (r *Rooms) Head(ctx context.Context, roomID string) (h Head, ok bool, err error) {
	var root, text []byte
	var version string
	err = r.Process.DB.QueryRow(ctx, `SELECT r.version, e.pos, e.root, e.event_id, e.json FROM rooms r
		JOIN events e ON e.room_id = r.room_id WHERE r.room_id = $1 ORDER BY e.pos DESC LIMIT 1`, roomID).
		Scan(&version, &h.Pos, &root, &h.EventID, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return h, false, nil
	}
	if err != nil {
		return h, false, err
	}
	v, known := event.VersionByID(version)
	if !known {
		return h, false, errEventRow
	}
	pdu, err := event.ParseTrusted(v, text, h.EventID)
	if err != nil {
		return h, false, err
	}
	h.RoomID, h.Version, h.Root, h.Depth = roomID, v, state.IDFrom(root), pdu.Depth
	return h, true, nil
}

// StateEvents reads the events of some keys of a state; keys without one are left out.
func (r *Rooms) StateEvents(ctx context.Context, root state.ID, keys ...state.Key) (map[state.Key]*Event, error) {
	tree := r.Tree(root)
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		id, err := tree.Get(ctx, k)
		if err != nil {
			return nil, err
		}
		if id != "" {
			ids = append(ids, id)
		}
	}
	events, err := r.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[state.Key]*Event, len(ids))
	for _, e := range events {
		out[state.Key{Type: e.Type, StateKey: *e.StateKey}] = e
	}
	return out, nil
}

// FullState reads all events of a state.
func (r *Rooms) FullState(ctx context.Context, root state.ID) ([]*Event, error) {
	entries, err := r.Tree(root).All(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.EventID
	}
	events, err := r.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]*Event, 0, len(ids))
	for _, id := range ids {
		if e := events[id]; e != nil {
			out = append(out, e)
		}
	}
	return out, nil
}

// eachState reads the events of a state, as far as they are wanted, and gives them part by part, as a state may be large. It
// ends with the first error.
func (r *Rooms) eachState(ctx context.Context, root state.ID, wanted func(state.Entry) bool, give func([]*Event) error) error {
	return r.Tree(root).Walk(ctx, func(entries []state.Entry) error {
		ids := make([]string, 0, len(entries))
		for _, e := range entries {
			if wanted == nil || wanted(e) {
				ids = append(ids, e.EventID)
			}
		}
		slices.Sort(ids) // as the database gives them
		return r.EachEvent(ctx, ids, give)
	})
}

const (
	partBytes     = 512 << 10 // of the events that EachEvent gives at once, about: web.Pieces charges for this, and for what is made of it
	minPartEvents = 8         // events, however large: each has 64 KiB, and as much of the one before it
)

// EachEvent reads events by id and gives them part by part, in the order of ids; those that are not there are left out. The
// events of a part have half a MiB together, or are few: whoever gets them may wait long for a client, and many do so at once. It
// ends with the first error. Of sorted ids nothing is read twice.
func (r *Rooms) EachEvent(ctx context.Context, ids []string, give func([]*Event) error) error {
	for n := readAtOnce; len(ids) > 0; {
		part, maxBytes := ids[:min(n, len(ids))], partBytes
		if len(part) <= minPartEvents {
			maxBytes = math.MaxInt
		}
		found := make(map[string]*Event, len(part))
		size, err := r.eventsWithin(ctx, part, maxBytes, found)
		much := errors.Is(err, errTooLarge)
		if err != nil && !much {
			return err
		}
		taken, events := 0, make([]*Event, 0, len(found))
		for _, id := range part {
			e := found[id]
			if e == nil && much { // it was not read
				break
			}
			if taken++; e != nil {
				events = append(events, e)
			}
		}
		ids = ids[taken:]
		if much {
			n = max(taken, minPartEvents)
		} else {
			n = min(max(taken*(partBytes/2)/max(size, 1), minPartEvents), 2*n, readAtOnce)
		}
		if len(events) == 0 {
			continue
		}
		if err := give(events); err != nil {
			return err
		}
	}
	return nil
}

// Membership is a user's place in a room.
type Membership struct {
	UserID, RoomID, Membership, EventID, Sender string
	Pos                                         int64
	Forgotten                                   bool
}

// Memberships reads the rooms of a user, whatever the membership.
func (r *Rooms) Memberships(ctx context.Context, userID string) ([]Membership, error) {
	return r.memberships(ctx, "user_id = $1", userID)
}

// MembershipsOf is Memberships for several users, in one statement.
func (r *Rooms) MembershipsOf(ctx context.Context, userIDs []string) ([]Membership, error) {
	return r.memberships(ctx, "user_id = ANY($1)", userIDs)
}

// Members reads the users of a room with one of some memberships.
func (r *Rooms) Members(ctx context.Context, roomID string, memberships ...string) ([]Membership, error) {
	return r.memberships(ctx, "room_id = $1 AND membership = ANY($2)", roomID, memberships)
}

// Membership reads a user's place in a room; the zero Membership when there is none.
func (r *Rooms) Membership(ctx context.Context, userID, roomID string) (Membership, error) {
	list, err := r.memberships(ctx, "user_id = $1 AND room_id = $2", userID, roomID)
	if err != nil || len(list) == 0 {
		return Membership{}, err
	}
	return list[0], nil
}

// maxRenames is how many changes of name and avatar are followed back to a join.
const maxRenames = 500

// JoinedAt gives the position of the event with which a user became a member, 0 for who is none. Of one who changed name or avatar
// very often since it is a later one.
func (r *Rooms) JoinedAt(ctx context.Context, m Membership) (pos int64, err error) {
	if m.Membership != event.MembershipJoin {
		return 0, nil
	}
	out := false
	err = db.Each(func(row db.Row) error {
		var at int64
		var text []byte
		if err := row.Scan(&at, &text); err != nil {
			return err
		}
		membership, _ := matrix.LookupString(matrix.Lookup(text, "content"), "membership")
		if out = out || membership != event.MembershipJoin; !out {
			pos = at
		}
		return nil
	})(r.Process.DB.Query(ctx, `WITH RECURSIVE turns (pos, json, replaces, n) AS (
		SELECT e.pos, e.json, e.replaces, 1 FROM events e WHERE e.event_id = $1
		UNION ALL
		SELECT e.pos, e.json, e.replaces, t.n + 1 FROM events e JOIN turns t ON e.event_id = t.replaces WHERE t.n < $2
		) SELECT pos, json FROM turns ORDER BY pos DESC`, m.EventID, maxRenames))
	return pos, err
}

func (r *Rooms) memberships(ctx context.Context, where string, args ...any) ([]Membership, error) {
	return db.List(func(row db.Row) (m Membership, err error) {
		err = row.Scan(&m.UserID, &m.RoomID, &m.Membership, &m.EventID, &m.Sender, &m.Pos, &m.Forgotten)
		return m, err
	})(r.Process.DB.Query(ctx, `SELECT user_id, room_id, membership, event_id, sender, pos, forgotten FROM memberships WHERE `+where, args...))
}

// Page asks for a part of a room's timeline.
type Page struct {
	RoomID   string
	From, To int64 // positions, exclusive; 0 for To means no bound
	Backward bool  // from From towards older events
	Limit    int
	// What of the events is wanted; all when nothing is said.
	Filter         *event.Filter  // as far as the database decides it: see Filter.Match
	knownRelations knownRelations // what is known to who asks, for Filter
	Members        bool           // m.room.member state events only
	Threaded       bool           // events of threads only
	Bytes          int            // it ends with the first event behind so many bytes of others; 0 for no such bound
}

// Complete tells that nothing of the page is left behind the events that Timeline gave.
func (p *Page) Complete(events []*Event) bool {
	size := 0
	for _, e := range events {
		if p.Bytes > 0 && size >= p.Bytes {
			return false
		}
		size += e.text()
	}
	return len(events) < p.Limit
}

// Timeline reads a part of a room's events in the order of the direction. Where it ends by Limit or Bytes, the next page is from
// the last event.
func (r *Rooms) Timeline(ctx context.Context, p Page) ([]*Event, error) {
	where := "e.room_id = $1 AND e.pos > $2 AND e.pos < $3"
	after, before := p.From, p.To
	if p.Backward {
		after, before = p.To, p.From
	}
	if before == 0 {
		before = 1 << 62
	}
	args := []any{p.RoomID, after, before, p.Limit}
	if p.Filter != nil {
		var more string
		if more, args = filterCondition(p.Filter, args, p.knownRelations); more != "" {
			where += " AND " + more
		}
	}
	if p.Members {
		where += " AND e.type = 'm.room.member' AND e.state_key IS NOT NULL"
	}
	if p.Threaded {
		where += " AND e.event_id IN (SELECT x.event_id FROM relations x " +
			"WHERE x.room_id = $1 AND x.rel_type = 'm.thread' AND x.pos > $2 AND x.pos < $3 ORDER BY x.pos" + order(p.Backward, "$4") + ")"
	}
	var events []*Event
	size := 0
	err := db.Each(func(row db.Row) error {
		e, err := scanEvent(row)
		if err != nil {
			return err
		}
		much := p.Bytes > 0 && size >= p.Bytes
		if events, size = append(events, e), size+e.text(); much {
			return errTooLarge
		}
		return nil
	})(r.Process.DB.Query(ctx, selectEvents+where+" ORDER BY e.pos"+order(p.Backward, "$4"), args...))
	if err != nil && !errors.Is(err, errTooLarge) {
		return nil, err
	}
	return events, nil
}

// selectDated begins a statement that finds events.
const selectDated = "SELECT e.event_id, e.ts FROM events e WHERE "

// selectSent looks at $5 and one more events of a room.
const selectSent = `e.room_id = $1 AND e.ts < $2 AND e.pos > $3 AND e.sender <> $4
	AND e.ts >= COALESCE((SELECT c.ts FROM events c WHERE c.room_id = $1 AND c.ts < $2 ORDER BY c.ts DESC LIMIT 1 OFFSET $5), 0)
	ORDER BY e.ts DESC LIMIT $6`

// SentQuery asks for what others sent to a room before a time.
type SentQuery struct {
	RoomID, NotBy string
	Before        int64 // ms since 1970
	After         int64 // position, exclusive
	ScanLimit     int   // newest events before the time that are looked at
	Limit         int
}

// EventTime is an event that is not read, and its origin_server_ts.
type EventTime struct {
	ID string
	TS int64 // ms since 1970
}

// SentBefore finds events of a room, the newest by origin_server_ts first.
func (r *Rooms) SentBefore(ctx context.Context, s SentQuery) ([]EventTime, error) {
	return db.List(func(row db.Row) (d EventTime, err error) {
		err = row.Scan(&d.ID, &d.TS)
		return d, err
	})(r.Process.DB.Query(ctx, selectDated+selectSent, s.RoomID, s.Before, s.After, s.NotBy, s.ScanLimit, s.Limit))
}

var _ state.Loader = nodeReader{}
