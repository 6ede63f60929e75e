package rooms

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

// past writes events into a room past its owner, for tests of what is read.
type past struct {
	t                 testing.TB
	r                 *Rooms
	head              Head
	shard             int
	pos               int64 // of the newest
	body              string
	events, relations [][]any
}

func newPast(t testing.TB, r *Rooms, roomID string) *past {
	t.Helper()
	head, ok, err := r.Head(context.Background(), roomID)
	if err != nil || !ok {
		t.Fatalf("there is no room %s: %v", roomID, err)
	}
	return &past{t: t, r: r, head: head, shard: r.stream.Shard(roomID), pos: head.Pos}
}

// add gives the id of an event that is stored by the next store.
func (w *past) add(typ, sender string, stateKey any, rel event.Relation) string {
	w.t.Helper()
	w.pos++
	id, state, content := fmt.Sprintf("$deep%039d", w.pos), "", fmt.Sprintf(`{"body":"%s"}`, w.body)
	if stateKey != nil {
		state = fmt.Sprintf(`"state_key":"%s",`, stateKey)
	}
	if rel.Target != "" {
		content = fmt.Sprintf(
			`{"body":"%s","m.relates_to":{"rel_type":"%s","event_id":"%s","key":"%s"}}`,
			w.body,
			rel.Type,
			rel.Target,
			rel.Key,
		)
		w.relations = append(w.relations, []any{rel.Target, id, w.head.RoomID, rel.Type, typ, sender, rel.Key, w.pos})
	}
	text := fmt.Sprintf(
		`{"auth_events":[],"content":%s,"depth":%d,"hashes":{"sha256":"x"},"origin_server_ts":%d,"prev_events":[],"room_id":"%s",`+
			`"sender":"%s","signatures":{},%s"type":"%s"}`,
		content,
		w.pos,
		w.pos,
		w.head.RoomID,
		sender,
		state,
		typ,
	)
	w.events = append(
		w.events,
		[]any{w.shard, w.pos, w.head.RoomID, id, typ, stateKey, sender, w.pos, w.head.Root.Bytes(), []byte(text), "", nil, nil},
	)
	if len(w.events) == 1000 {
		w.store()
	}
	return id
}

func (w *past) store() {
	w.t.Helper()
	ctx, d := context.Background(), w.r.Process.DB
	err := d.Write(ctx, func(b *db.Batch) error {
		b.Rows(eventRows, w.events)
		b.Rows(relationRows, w.relations)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.events, w.relations = nil, nil
	w.r.owned.Drop(w.shard)
	if _, err := d.Exec(ctx, "UPDATE leases SET pos = $1 WHERE name = $2 AND pos < $1", w.pos, w.r.stream.Lease(w.shard)); err != nil {
		w.t.Fatal(err)
	}
}

// BenchmarkDeepRoom asks for things of a room of 25,000 events; -short for PostgreSQL.
func BenchmarkDeepRoom(b *testing.B) {
	d := openBench(b)
	p := roletest.New(b, d)
	r := wire(b, p)
	people := webtest.People{"alice": &web.Identity{UserID: "@alice:" + server, DeviceID: "A"}}
	alice := webtest.New(b, people, r.Routes()...).As("alice")
	roletest.Start(b, p)
	room := alice.Want(200, "POST /_matrix/client/v3/createRoom", obj{"preset": "public_chat"}).Get("room_id").String()
	root := alice.Want(200, at("PUT", room, "send/m.room.message/root"), obj{"body": "root"}).Get("event_id").String()
	w := newPast(b, r, room)
	for i := range 12_000 {
		w.add("org.example.state", "@alice:"+server, fmt.Sprint(i), event.Relation{})
	}
	for i := range 6_000 {
		w.add("m.reaction", "@alice:"+server, nil, event.Relation{Target: root, Type: relAnnotation, Key: fmt.Sprint(i)})
	}
	for range 3_000 {
		w.add("m.room.message", "@alice:"+server, nil, event.Relation{Target: root, Type: relThread})
	}
	for range 4_000 {
		w.add("m.room.message", "@alice:"+server, nil, event.Relation{})
	}
	w.store()
	filter := "&filter=" + url.QueryEscape(`{"types":["none"]}`)
	for name, path := range map[string]string{
		"relations, none":            at1("GET", room, "relations/"+esc(root)+"/m.none?limit=1000"),
		"relations, none, recursive": at1("GET", room, "relations/"+esc(root)+"/m.none?limit=1000&recurse=true"),
		"relations, none of a type":  at1("GET", room, "relations/"+esc(root)+"/m.annotation/none?limit=1000"),
		"relations, ten":             at1("GET", room, "relations/"+esc(root)+"?limit=10"),
		"relations, ten, recursive":  at1("GET", room, "relations/"+esc(root)+"?limit=10&recurse=true"),
		"messages, none":             at("GET", room, "messages?dir=b&limit=1000"+filter),
		"messages, none, forward":    at("GET", room, "messages?dir=f&limit=1000"+filter),
		"messages, a hundred":        at("GET", room, "messages?dir=b&limit=100"),
		"context, none":              at("GET", room, "context/"+esc(root)+"?limit=100"+filter),
		"threads":                    at1("GET", room, "threads"),
		"event with its thread":      at("GET", room, "event/"+esc(root)),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				alice.Want(200, path, nil)
			}
		})
	}
	b.Run("the same reaction", func(b *testing.B) {
		for b.Loop() {
			var found bool
			if err := d.QueryRow(b.Context(), selectSame, root, room, "@alice:"+server, "none", "m.reaction").Scan(&found); err != nil || found {
				b.Fatal(found, err)
			}
		}
	})
}
