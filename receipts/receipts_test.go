package receipts

import (
	"context"
	"net/url"
	"slices"
	"sync"
	"testing"

	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
	"lyceum/rooms/roomstest"
)

type obj = map[string]any

// node is a process that serves receipts.
type node struct {
	*Receipts
	*roomstest.Node
}

var harness = roomstest.NewHarness(func(t testing.TB, on *roomstest.Node) *node {
	n := &node{New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, Now: on.Clock.Now}), on}
	on.Serve(t, n.Routes()...)
	return n
}, Migrations())

func path(room, typ, event string) string {
	return "POST " + roomstest.API + "/rooms/" + url.PathEscape(room) + "/receipt/" + typ + "/" + url.PathEscape(event)
}

func TestReceiptsDoNotGoBackwards(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		ctx := t.Context()
		var tailed []*Receipt
		var mu sync.Mutex
		room := n.Room(t, "alice", "bob")
		first, second := n.Say(t, "alice", room, "1"), n.Say(t, "alice", room, "2")
		bob := n.HTTP.As("bob")
		bob.Want(200, path(room, TypeRead, second), nil)
		bob.Want(200, path(room, TypeRead, first), "{}")
		bob.Want(200, path(room, TypePrivate, first), obj{})
		list, err := n.Since(ctx, room, 0, 1<<62)
		if err != nil || len(list) != 2 || list[0].EventID != second || list[0].Pos != 1 || list[1].Type != TypePrivate {
			t.Fatalf("found %+v, %v", list, err)
		}
		n.owned.Drop(n.stream.Shard(room)) // a new owner knows nothing
		bob.Want(200, path(room, TypeRead, first), nil)
		byRoom, err := n.ForRooms(ctx, []string{room, "!other:here.test"})
		if err != nil || len(byRoom) != 1 || len(byRoom[room]) != 2 || byRoom[room][0].EventID != second {
			t.Fatalf("found %+v, %v", byRoom, err)
		}
		upto, err := n.ReadUpTo(ctx, "@bob:here.test", room)
		if err != nil || upto[""] != list[0].EventPos {
			t.Fatalf("found %v, %v", upto, err)
		}
		rows, err := n.stream.Read(ctx, stream.Range{Shard: n.stream.Shard(room), Upto: 10, Limit: 10})
		if err != nil || len(rows) != 2 {
			t.Fatalf("found %v, %v", rows, err)
		}
		for _, row := range rows {
			row.Value = nil
			rc, err := FromRow(row)
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			tailed = append(tailed, rc)
			mu.Unlock()
		}
		if *tailed[0] != *list[0] {
			t.Fatalf("%+v became %+v", list[0], tailed[0])
		}
	})
}

func TestThreadsAndErrors(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		root := n.Say(t, "alice", room, "root")
		in := n.Say(t, "alice", room, "in", obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
		edit := n.Say(
			t, "alice", room, "edit",
			obj{"m.relates_to": obj{"rel_type": "m.replace", "event_id": in}, "m.new_content": obj{"body": "x", "msgtype": "m.text"}},
		)
		outside := n.Say(t, "alice", room, "outside")
		for _, c := range []struct {
			event, typ string
			body       any
			status     int
			code       string
		}{
			{in, TypeRead, obj{"thread_id": root}, 200, ""},
			{edit, TypeRead, obj{"thread_id": root}, 200, ""},
			{root, TypeRead, obj{"thread_id": root}, 200, ""},
			{root, TypeRead, obj{"thread_id": "main"}, 200, ""},
			{in, TypeRead, nil, 200, ""},
			{in, TypeRead, obj{"thread_id": "main"}, 400, "M_INVALID_PARAM"},
			{outside, TypeRead, obj{"thread_id": root}, 400, "M_INVALID_PARAM"},
			{in, TypeRead, obj{"thread_id": ""}, 400, "M_INVALID_PARAM"},
			{in, TypeRead, obj{"thread_id": 7}, 400, "M_INVALID_PARAM"},
			{in, TypeRead, obj{"thread_id": "nonsense"}, 400, "M_INVALID_PARAM"},
			{in, TypeFullyRead, obj{"thread_id": root}, 400, "M_INVALID_PARAM"},
			{in, "m.other", nil, 400, "M_INVALID_PARAM"},
			{"$unknown", TypeRead, nil, 404, "M_NOT_FOUND"},
		} {
			got := n.HTTP.As("bob").Call(path(room, c.typ, c.event), c.body)
			if got.Status != c.status || got.Errcode() != c.code {
				t.Errorf("%+v: found %d %s", c, got.Status, got.Body)
			}
		}
		if got := n.HTTP.As("carol").Call(path(room, TypeRead, in), nil); got.Status != 403 {
			t.Errorf("one who is not there: %s", got.Body)
		}
	})
}

func TestMarkers(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		first, second := n.Say(t, "alice", room, "1"), n.Say(t, "alice", room, "2")
		markers := "POST " + roomstest.API + "/rooms/" + url.PathEscape(room) + "/read_markers"
		n.HTTP.As("bob").Want(200, markers, obj{"m.fully_read": second, "m.read": first, "m.read.private": second})
		n.HTTP.As("bob").Want(200, path(room, TypeFullyRead, first), nil)
		n.HTTP.As("bob").Want(200, markers, nil)
		raw, err := n.Accounts.AccountData(t.Context(), "@bob:here.test", room, TypeFullyRead)
		if err != nil || string(raw) != `{"event_id":"`+second+`"}` {
			t.Fatalf("found %s, %v", raw, err)
		}
		list, err := n.Since(t.Context(), room, 0, 1<<62)
		if err != nil || len(list) != 2 {
			t.Fatalf("found %v, %v", list, err)
		}
	})
}

// TestMarkersAtOnce: whoever comes last, the newest event stays.
func TestMarkersAtOnce(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		markers := "POST " + roomstest.API + "/rooms/" + url.PathEscape(room) + "/read_markers"
		for range 5 {
			var wg sync.WaitGroup
			var events []string
			for range 8 {
				events = append(events, n.Say(t, "alice", room, "text"))
			}
			for i, id := range slices.Backward(events) {
				wg.Go(func() {
					if i%2 == 0 {
						n.HTTP.As("bob").Want(200, markers, obj{"m.fully_read": id})
					} else {
						n.HTTP.As("bob").Want(200, path(room, TypeFullyRead, id), obj{})
					}
				})
			}
			wg.Wait()
			if err := n.Process.Streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			raw, err := n.Accounts.AccountData(t.Context(), "@bob:here.test", room, TypeFullyRead)
			if want := `{"event_id":"` + events[7] + `"}`; err != nil || string(raw) != want {
				t.Fatalf("expected %s, found %s, %v", want, raw, err)
			}
		}
	})
}

func TestTwoProcesses(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		room := ""
		for room == "" || !two.stream.Owns(two.stream.Shard(room)) {
			room = one.Room(t, "alice", "bob")
		}
		first, second := one.Say(t, "alice", room, "1"), one.Say(t, "alice", room, "2")
		one.HTTP.As("bob").Want(200, path(room, TypeRead, second), nil)
		shard := one.stream.Shard(room)
		roletest.Until(t, "the row comes", func() bool {
			return one.stream.Position(shard) == two.stream.Position(shard) && one.stream.Position(shard) > 0
		})
		stopTwo()
		one.HTTP.As("bob").Want(200, path(room, TypeRead, first), nil)
		list, err := one.Since(context.Background(), room, 0, 1<<62)
		if err != nil || !slices.ContainsFunc(list, func(r *Receipt) bool { return r.EventID == second }) {
			t.Fatalf("found %v, %v", list, err)
		}
	})
}

func FuzzFromRow(f *testing.F) {
	f.Add([]byte(`{"room":"!r:x","user":"@u:x","type":"m.read","event":"$e","ts":1,"at":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rc, err := FromRow(stream.Row{Data: data, Pos: 3})
		if err == nil && rc.Pos != 3 {
			t.Fatal("the position is lost")
		}
	})
}
