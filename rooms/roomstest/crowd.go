package roomstest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"lyceum/platform/db"
	"lyceum/rooms/state"
)

var (
	eventRows = &db.Table{
		Name: "events",
		Columns: db.Columns(`shard integer, pos integer, room_id text, event_id text, type text, state_key text,
		sender text, ts integer, root bytes, json bytes, device text, txn text, replaces text`),
	}
	nodeRows = &db.Table{Name: "state_nodes", Columns: db.Columns("id bytes, node bytes"), Conflict: "ON CONFLICT (id) DO NOTHING"}
)

// AddMembers puts many members with names of some length into a room, past its owner: the process must start anew. It is for
// tests of what is only read.
func (n *Node) AddMembers(t testing.TB, roomID string, members, name int) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	head, ok, err := n.Rooms.Head(ctx, roomID)
	must(err)
	if !ok {
		t.Fatalf("there is no room %s", roomID)
	}
	entries, err := n.Rooms.Tree(head.Root).All(ctx)
	must(err)
	id := func(i int) string { return fmt.Sprintf("$crowd%038d", i) }
	user := func(i int) string { return fmt.Sprintf("@crowd%d:%s", i, Server) }
	for i := range members {
		entries = append(entries, state.Entry{Key: state.Key{Type: "m.room.member", StateKey: user(i)}, EventID: id(i)})
	}
	tree, nodes := state.Build(entries, nil)
	shard := n.Rooms.Stream().Shard(roomID)
	root, long := tree.Root(), strings.Repeat("x", name)
	const atOnce = 1000
	for from := 0; from < max(members, len(nodes)); from += atOnce {
		must(n.Process.DB.Write(ctx, func(w *db.Batch) error {
			var events, texts [][]any
			for i := from; i < min(from+atOnce, members); i++ {
				text := fmt.Sprintf(
					`{"auth_events":[],"content":{"displayname":"%d%s","membership":"join"},"depth":%d,"hashes":{"sha256":"x"},"origin_server_ts":1,`+
						`"prev_events":[],"room_id":"%s","sender":"%[5]s","signatures":{},"state_key":"%[5]s","type":"m.room.member"}`,
					i,
					long,
					i,
					roomID,
					user(i),
				)
				events = append(events, []any{
					shard, head.Pos + int64(i) + 1, roomID, id(i), "m.room.member", user(i), user(i), 1, root.Bytes(), []byte(text), "", nil, nil,
				})
			}
			for i := from; i < min(from+atOnce, len(nodes)); i++ {
				texts = append(texts, []any{nodes[i].ID.Bytes(), nodes[i].Text})
			}
			w.Rows(eventRows, events)
			w.Rows(nodeRows, texts)
			return nil
		}))
	}
	_, err = n.Process.DB.Exec(ctx, "UPDATE leases SET pos = $1 WHERE name = $2", head.Pos+int64(members), n.Rooms.Stream().Lease(shard))
	must(err)
}
