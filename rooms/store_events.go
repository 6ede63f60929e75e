package rooms

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// eventStore keeps the events stream; see stream.Store.
type eventStore struct{ r *Rooms }

const nodesAtOnce = 500

// Insert writes the events of a group commit with their state, memberships and relations.
func (eventStore) Insert(ctx context.Context, tx *db.Tx, batch []*stream.Entry) error {
	events := make([][]any, 0, len(batch))
	var nodes, rooms, relations [][]any
	members := map[[2]string][]any{}
	seen := map[state.ID]bool{}
	var redactions []*Event
	for _, entry := range batch {
		e := entry.Value.(*Event)
		e.Shard, e.Pos = entry.Shard, entry.Pos
		events = append(events, []any{
			e.Shard, e.Pos, e.RoomID, e.ID, e.Type, e.StateKey, e.Sender, e.OriginServerTS,
			e.Root.Bytes(), []byte(e.JSON), e.Device, nullable(e.Txn), nullable(e.Replaces),
		})
		for _, n := range e.nodes {
			if !seen[n.ID] {
				seen[n.ID] = true
				nodes = append(nodes, []any{n.ID.Bytes(), n.Text})
			}
		}
		if c := e.created; c != nil {
			rooms = append(rooms, []any{e.RoomID, c.version, c.creator, c.ms, c.visibility})
		}
		if e.Type == event.TypeMember && e.IsState() {
			members[[2]string{*e.StateKey, e.RoomID}] = []any{*e.StateKey, e.RoomID, e.Membership(), e.ID, e.Sender, e.Pos, false}
		}
		if rel, ok := relationOf(e.Event); ok {
			relations = append(relations, []any{rel.target, e.ID, e.RoomID, rel.relType, e.Type, e.Sender, rel.key, e.Pos})
		}
		if e.redact != nil {
			redactions = append(redactions, e)
		}
	}
	if err := tx.Bulk(ctx, "INSERT INTO rooms (room_id, version, creator, created_ms, visibility) VALUES ?", rooms); err != nil {
		return err
	}
	if err := tx.Bulk(ctx, `INSERT INTO events (shard, pos, room_id, event_id, type, state_key, sender, ts, root, json, device, txn, replaces)
		VALUES ?`, events); err != nil {
		return err
	}
	if err := tx.Bulk(ctx, "INSERT INTO state_nodes (id, node) VALUES ? ON CONFLICT (id) DO NOTHING", nodes); err != nil {
		return err
	}
	memberRows := make([][]any, 0, len(members))
	for _, row := range members {
		memberRows = append(memberRows, row)
	}
	slices.SortFunc(memberRows, func(a, b []any) int { return strings.Compare(a[0].(string)+a[1].(string), b[0].(string)+b[1].(string)) })
	if err := tx.Bulk(ctx, `INSERT INTO memberships (user_id, room_id, membership, event_id, sender, pos, forgotten) VALUES ?
		ON CONFLICT (user_id, room_id) DO UPDATE SET membership = excluded.membership, event_id = excluded.event_id,
		sender = excluded.sender, pos = excluded.pos, forgotten = excluded.forgotten`, memberRows); err != nil {
		return err
	}
	if err := tx.Bulk(ctx, `INSERT INTO relations (target, event_id, room_id, rel_type, type, sender, agg_key, pos) VALUES ?
		ON CONFLICT (target, event_id) DO NOTHING`, relations); err != nil {
		return err
	}
	for _, e := range redactions {
		if _, err := tx.Exec(ctx, "UPDATE events SET json = $1, redacted_by = $2 WHERE event_id = $3", []byte(e.redact.JSON), e.ID, e.redact.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM relations WHERE event_id = $1", e.redact.ID); err != nil {
			return err
		}
	}
	return nil
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Read gives the rows of a range with their Data, as they travel on the bus.
func (s eventStore) Read(ctx context.Context, q db.Querier, rg stream.Range) ([]stream.Row, error) {
	events, err := s.r.query(ctx, q, "e.shard = $1 AND e.pos > $2 AND e.pos <= $3 ORDER BY e.pos LIMIT $4", rg.Shard, rg.After, rg.Upto, rg.Limit)
	if err != nil {
		return nil, err
	}
	rows := make([]stream.Row, len(events))
	for i, e := range events {
		rows[i] = stream.Row{Shard: e.Shard, Pos: e.Pos, Key: e.RoomID, Data: e.encode(), Value: e}
	}
	return rows, nil
}

const selectEvents = `SELECT e.shard, e.pos, e.event_id, r.version, e.root, e.json, e.device, e.txn, e.replaces, e.redacted_by, p.json, p.sender
	FROM events e JOIN rooms r ON r.room_id = e.room_id LEFT JOIN events p ON p.event_id = e.replaces WHERE `

// query reads events; where is SQL behind WHERE, about the table e.
func (r *Rooms) query(ctx context.Context, q db.Querier, where string, args ...any) ([]*Event, error) {
	return db.List(scanEvent)(q.Query(ctx, selectEvents+where, args...))
}

func scanEvent(row db.Row) (*Event, error) {
	e := &Event{}
	var id, version string
	var txn, replaces, redactedBy, prevSender sql.NullString
	var root, text, prev []byte
	if err := row.Scan(&e.Shard, &e.Pos, &id, &version, &root, &text, &e.Device, &txn, &replaces, &redactedBy, &prev, &prevSender); err != nil {
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
	e.Txn, e.Replaces, e.RedactedBy, e.PrevSender = txn.String, replaces.String, redactedBy.String, prevSender.String
	if prev != nil {
		before, err := event.ParseTrusted(v, prev, e.Replaces)
		if err != nil {
			return nil, err
		}
		e.PrevContent = json.RawMessage(before.Content)
	}
	return e, nil
}
