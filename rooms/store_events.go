package rooms

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// eventStore keeps the events stream; see stream.Store.
type eventStore struct{ r *Rooms }

const nodesAtOnce = 500

var (
	roomRows  = &db.Table{Name: "rooms", Columns: db.Columns("room_id text, version text, creator text, created_ms integer, visibility text")}
	aliasRows = &db.Table{Name: "aliases", Columns: db.Columns("alias text, room_id text, creator text, created_ms integer")}
	eventRows = &db.Table{Name: "events", Columns: db.Columns(`shard integer, pos integer, room_id text, event_id text, type text,
		state_key text, sender text, ts integer, root bytes, json bytes, device text, txn text, replaces text`)}
	nodeRows   = &db.Table{Name: "state_nodes", Columns: db.Columns("id bytes, node bytes"), Conflict: "ON CONFLICT (id) DO NOTHING"}
	memberRows = &db.Table{
		Name:    "memberships",
		Columns: db.Columns("user_id text, room_id text, membership text, event_id text, sender text, pos integer, forgotten bool"),
		Conflict: `ON CONFLICT (user_id, room_id) DO UPDATE SET membership = excluded.membership, event_id = excluded.event_id,
		sender = excluded.sender, pos = excluded.pos, forgotten = excluded.forgotten`,
	}
	relationRows = &db.Table{
		Name:     "relations",
		Columns:  db.Columns("target text, event_id text, room_id text, rel_type text, type text, sender text, agg_key text, pos integer"),
		Conflict: "ON CONFLICT (target, event_id) DO NOTHING",
	}
)

// errOrphan says that a write names an event or a state before it which is not stored: what was built upon a failed
// write must not be stored.
var errOrphan = errors.New("an event names an event or a state before it which is not stored")

// errDeactivated refuses a membership of a deactivated user: the work that makes the user leave may have looked for memberships
// already.
var errDeactivated = matrix.Forbidden("The account of the user is deactivated")

// Insert writes the events of a group commit with their state, memberships and relations.
func (eventStore) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	events := make([][]any, 0, len(batch))
	var nodes, rooms, upgrades, aliases, relations [][]any
	var heirs []*Event
	members := map[[2]string][]any{}
	active := map[string]bool{} // users that must be
	profiles := map[[2]string]accounts.ProfileCopy{}
	seen := map[state.ID]bool{}
	var redactions []*Event
	for _, entry := range batch {
		e := entry.Value.(*Event)
		e.Shard, e.Pos = entry.Shard, entry.Pos
		events = append(events, []any{
			e.Shard, e.Pos, e.RoomID, e.ID, e.Type, e.StateKey, e.Sender, e.OriginServerTS,
			e.Root.Bytes(), []byte(e.JSON), e.Device, nullable(e.Txn), nullable(e.Replaces),
		})
		for _, n := range e.newNodes() {
			if !seen[n.ID] {
				seen[n.ID] = true
				nodes = append(nodes, []any{n.ID.Bytes(), n.Text})
			}
		}
		if c := e.created; c != nil {
			rooms = append(rooms, []any{e.RoomID, c.version, c.creator, c.ms, c.visibility})
			if u := c.upgrade; u != nil {
				upgrades = append(upgrades, []any{u.NewRoom, u.OldRoom, u.User, u.Tombstone})
			}
			if c.alias != "" {
				aliases = append(aliases, []any{c.alias, e.RoomID, c.creator, c.ms})
			}
		}
		if e.Type == event.TypeMember && e.IsState() {
			key := [2]string{*e.StateKey, e.RoomID}
			delete(profiles, key) // what holds is the newest
			if e.profileVersion != 0 {
				profiles[key] = accounts.ProfileCopy{UserID: *e.StateKey, Place: e.RoomID, ID: e.ID, Version: e.profileVersion}
			}
			if e.profileVersion != 0 || e.requireActive {
				active[*e.StateKey] = true
			}
			members[key] = []any{*e.StateKey, e.RoomID, e.Membership(), e.ID, e.Sender, e.Pos, false}
		}
		if rel, ok := event.RelationOf(e.Event); ok {
			relations = append(relations, []any{rel.Target, e.ID, e.RoomID, rel.Type, e.Type, e.Sender, rel.Key, e.Pos})
		}
		if e.redact != nil {
			redactions = append(redactions, e)
		}
		if e.moveAliasesTo != "" {
			heirs = append(heirs, e)
		}
	}
	w.Rows(roomRows, rooms)
	w.Rows(upgradeRows, upgrades)
	w.Rows(aliasRows, aliases)
	w.Rows(eventRows, events)
	w.Rows(nodeRows, nodes)
	memberships := slices.Collect(maps.Values(members))
	slices.SortFunc(memberships, func(a, b []any) int { return strings.Compare(a[0].(string)+a[1].(string), b[0].(string)+b[1].(string)) })
	w.Rows(memberRows, memberships)
	w.Rows(relationRows, relations)
	if len(active) > 0 {
		accounts.RequireActive(w, errDeactivated, slices.Sorted(maps.Keys(active)))
	}
	if len(profiles) > 0 {
		accounts.RecordOldProfiles(w, slices.Collect(maps.Values(profiles)))
	}
	for _, e := range heirs {
		w.Do("UPDATE aliases SET room_id = $2 WHERE room_id = $1", e.RoomID, e.moveAliasesTo)
	}
	for _, e := range redactions {
		w.Do("UPDATE events SET json = $1, redacted_by = $2 WHERE event_id = $3", []byte(e.redact.JSON), e.ID, e.redact.ID)
		w.Do("DELETE FROM relations WHERE event_id = $1", e.redact.ID)
	}
	refuseOrphans(w, batch, seen)
	return nil
}

// refuseOrphans makes the write fail when what an event of it is built upon is neither stored nor in it. It asks for the first
// event that is built upon what was read from the database only: where the event before was queued by this process, its
// failure fails this one too (stream.Basis). The database plans the statement anew each time, a fifth of the cost of a send, so it is left
// out where it is not needed.
func refuseOrphans(w *db.Batch, batch []*stream.Entry, nodes map[state.ID]bool) {
	known := make(map[string]bool, 2*len(batch))
	for _, entry := range batch {
		known[entry.Value.(*Event).ID] = true
	}
	var events []string
	var roots [][]byte
	for _, entry := range batch {
		e := entry.Value.(*Event)
		if e.prevQueued {
			continue
		}
		for _, id := range e.PrevEvents {
			if !known[id] {
				known[id] = true
				events = append(events, id)
			}
		}
		if !nodes[e.Root] {
			nodes[e.Root] = true
			roots = append(roots, e.Root.Bytes())
		}
	}
	if n := len(events) + len(roots); n > 0 {
		w.Require(errOrphan, n, `SELECT 1 FROM events WHERE event_id = ANY($1)
			UNION ALL SELECT 1 FROM state_nodes WHERE id = ANY($2::bytea[])`, events, roots)
	}
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Read gives the rows of a range with their Data, as they travel on the bus.
func (s eventStore) Read(ctx context.Context, q db.Querier, rg stream.Range) ([]stream.Row, error) {
	events, err := s.r.query(ctx, q, "e.shard = $1 AND e.pos > $2 AND e.pos <= $3 ORDER BY e.pos LIMIT $4",
		rg.Shard, rg.After, rg.Upto, rg.Limit)
	if err != nil {
		return nil, err
	}
	rows := make([]stream.Row, len(events))
	for i, e := range events {
		rows[i] = stream.Row{Shard: e.Shard, Pos: e.Pos, Key: e.RoomID, Data: e.encode(), Value: e}
	}
	return rows, nil
}

const selectEvents = `SELECT e.shard, e.pos, e.event_id, r.version, e.root, e.json, e.device, e.txn, e.replaces, e.redacted_by,
	p.json, p.sender, p.pos
	FROM events e JOIN rooms r ON r.room_id = e.room_id LEFT JOIN events p ON p.event_id = e.replaces WHERE `

// query reads events; where is SQL behind WHERE, about the table e.
func (r *Rooms) query(ctx context.Context, q db.Querier, where string, args ...any) ([]*Event, error) {
	return db.List(scanEvent)(q.Query(ctx, selectEvents+where, args...))
}

func scanEvent(row db.Row) (*Event, error) {
	e := &Event{}
	var id, version string
	var txn, replaces, redactedBy, prevSender sql.NullString
	var prevPos sql.NullInt64
	var root, text, prev []byte
	err := row.Scan(&e.Shard, &e.Pos, &id, &version, &root, &text, &e.Device, &txn, &replaces, &redactedBy, &prev, &prevSender, &prevPos)
	if err != nil {
		return nil, err
	}
	v, ok := event.VersionByID(version)
	if !ok {
		return nil, errEventRow
	}
	pdu, err := event.ParseTrusted(v, text, id)
	if err != nil {
		return nil, err
	}
	e.Event, e.Root = pdu, state.IDFrom(root)
	e.Txn, e.Replaces, e.RedactedBy, e.PrevSender, e.PrevPos = txn.String, replaces.String, redactedBy.String, prevSender.String, prevPos.Int64
	if prev != nil {
		before, err := event.ParseTrusted(v, prev, e.Replaces)
		if err != nil {
			return nil, err
		}
		e.PrevContent = json.RawMessage(before.Content)
	}
	return e, nil
}
