package typing

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"lyceum/matrix"
	"lyceum/platform/owned"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
	"lyceum/rooms"
	"lyceum/rooms/roomstest"
)

type obj = map[string]any

// node is a process that serves typing notifications.
type node struct {
	*Typing
	*roomstest.Node
}

var harness = roomstest.NewHarness(func(t testing.TB, on *roomstest.Node) *node {
	n := &node{New(Deps{Process: on.Process, Rooms: on.Rooms, Now: on.Clock.Now}), on}
	on.Serve(t, n.Routes()...)
	return n
}, Migrations())

func path(room, user string) string {
	return "PUT " + roomstest.API + "/rooms/" + url.PathEscape(room) + "/typing/" + url.PathEscape("@"+user+":here.test")
}

func (n *node) who(t testing.TB, room string) []string {
	t.Helper()
	now, err := n.Current(t.Context(), []string{room})
	if err != nil {
		t.Fatal(err)
	}
	if s := now[room]; s != nil {
		return s.Users
	}
	return nil
}

func TestTyping(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		n.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": true, "timeout": 60_000})
		n.HTTP.As("alice").Want(200, path(room, "alice"), obj{"typing": true, "timeout": 10_000})
		if got := n.who(t, room); !slices.Equal(got, []string{"@alice:here.test", "@bob:here.test"}) {
			t.Fatalf("found %v", got)
		}
		shard := n.stream.Shard(room)
		before := n.stream.Position(shard)
		n.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": true, "timeout": 60_500}) // nothing worth a row
		if n.stream.Position(shard) != before {
			t.Fatal("a renewal by half a second was written")
		}
		n.Clock.Advance(11 * time.Second)
		if got := n.who(t, room); !slices.Equal(got, []string{"@bob:here.test"}) {
			t.Fatalf("one whose time is over is told: %v", got)
		}
		roletest.Until(t, "the owner writes that alice stopped", func() bool { return n.stream.Position(shard) == before+1 })
		n.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": false})
		if got := n.who(t, room); got != nil {
			t.Fatalf("found %v", got)
		}
		rows, err := n.stream.Read(t.Context(), stream.Range{Shard: shard, Upto: 100, Limit: 10})
		if err != nil || len(rows) != 1 {
			t.Fatalf("found %v, %v", rows, err)
		}
		rows[0].Value = nil
		if s, err := FromRow(rows[0]); err != nil || s.RoomID != room || len(s.Users) != 0 || s.Pos != before+2 {
			t.Fatalf("found %+v, %v", s, err)
		}
	})
}

func TestWhoLeavesStopsTyping(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob", "carol", "dave")
		for _, name := range []string{"alice", "bob", "carol", "dave"} {
			n.HTTP.As(name).Want(200, path(room, name), obj{"typing": true, "timeout": 120_000})
		}
		at := "POST " + roomstest.API + "/rooms/" + url.PathEscape(room)
		n.HTTP.As("bob").Want(200, at+"/leave", obj{})
		n.HTTP.As("alice").Want(200, at+"/kick", obj{"user_id": "@carol:here.test"})
		n.HTTP.As("alice").Want(200, at+"/ban", obj{"user_id": "@dave:here.test"})
		roletest.Until(t, "alice alone types", func() bool { return slices.Equal(n.who(t, room), []string{"@alice:here.test"}) })
	})
}

// TestWhoLeftIsFoundByTheNextOwner: it finds bob typing, whose time as a member is over.
func TestWhoLeftIsFoundByTheNextOwner(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice")
		n.HTTP.As("alice").Want(200, path(room, "alice"), obj{"typing": true, "timeout": 120_000})
		err := n.owned.Do(t.Context(), room, func(c *owned.Change[roomTyping]) error { // as if nobody had been there to hear that bob left
			return n.appendState(
				c,
				room,
				append(slices.Clone(c.State().typists), typist{ID: "@bob:here.test", Until: n.Clock.Now().Add(maxTimeout).UnixMilli()}),
			)
		})
		if err != nil {
			t.Fatal(err)
		}
		if who := n.who(t, room); len(who) != 2 {
			t.Fatal(who)
		}
		n.owned.Drop(n.stream.Shard(room))
		n.HTTP.As("alice").Want(200, path(room, "alice"), obj{"typing": true, "timeout": 100_000})
		roletest.Until(t, "alice alone types", func() bool { return slices.Equal(n.who(t, room), []string{"@alice:here.test"}) })
	})
}

// TestWhoCameBackTypesOn: the end of a former membership, heard late, ends no typing of the new one.
func TestWhoCameBackTypesOn(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		was, err := n.Rooms.Membership(t.Context(), "@bob:here.test", room)
		if err != nil {
			t.Fatal(err)
		}
		n.HTTP.As("bob").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/leave", obj{})
		left, err := n.Rooms.Membership(t.Context(), "@bob:here.test", room)
		if err != nil || left.Pos <= was.Pos {
			t.Fatal(left, was, err)
		}
		n.HTTP.As("alice").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/invite", obj{"user_id": "@bob:here.test"})
		n.HTTP.As("bob").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/join", obj{})
		n.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": true, "timeout": 120_000})
		end := func(pos int64) []string {
			if _, err := n.setAtOwner(t.Context(), room, setRequest{UserID: "@bob:here.test", Left: pos}); err != nil {
				t.Fatal(err)
			}
			return n.who(t, room)
		}
		if who := end(left.Pos); len(who) != 1 {
			t.Errorf("the end of the former membership: expected that bob types, found %q", who)
		}
		now, err := n.Rooms.Membership(t.Context(), "@bob:here.test", room)
		if err != nil {
			t.Fatal(err)
		}
		if who := end(now.Pos + 1); len(who) != 0 {
			t.Errorf("the end of this membership: expected nobody, found %q", who)
		}
	})
}

// TestWhoWasRemovedDoesNotBegin: a request stands still behind its look at the membership, until the owner has heard that it ended.
func TestWhoWasRemovedDoesNotBegin(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		m, err := n.Rooms.Membership(t.Context(), "@bob:here.test", room)
		if err != nil {
			t.Fatal(err)
		}
		n.HTTP.As("alice").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/kick", obj{"user_id": "@bob:here.test"})
		roletest.Until(t, "the owner has heard of it", func() bool {
			heard := false
			n.owned.Peek(t.Context(), room, func(s *roomTyping) { heard = s.endedCount > 0 })
			return heard
		})
		if err := n.Set(t.Context(), m, maxTimeout); !matrix.HasCode(err, matrix.CodeForbidden) {
			t.Errorf("expected M_FORBIDDEN, found %v", err)
		}
		if who := n.who(t, room); len(who) != 0 {
			t.Errorf("expected nobody, found %q", who)
		}
	})
}

// TestALookHoldsUntilAMembershipEnds: what the owner saw of who begins is seen again when it heard, or forgot, something since.
func TestALookHoldsUntilAMembershipEnds(t *testing.T) {
	s := &roomTyping{endedCount: 3}
	joined := rooms.Membership{Membership: "join", Pos: 7}
	for _, c := range []struct {
		l     membershipLookup
		again bool
	}{
		{membershipLookup{s, 3, joined}, false},
		{membershipLookup{s, 2, joined}, true},
		{membershipLookup{&roomTyping{endedCount: 3}, 3, joined}, true},
		{membershipLookup{}, true},
	} {
		try := owned.Unowned(s)
		if err := (&Typing{}).decide(try, "!r:here.test", setRequest{UserID: "@bob:here.test", Ms: 1}, 1, &c.l); try.Needs() != c.again ||
			(err != nil) != c.again {
			t.Errorf("%+v: found %v", c.l, err)
		}
	}
}

// TestAnotherProcessHearsWhoLeft: events and typing of a room have owners in two processes.
func TestAnotherProcessHearsWhoLeft(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, _ func()) {
		room := ""
		for room == "" || !two.stream.Owns(two.stream.Shard(room)) || !one.Rooms.Stream().Owns(one.Rooms.Stream().Shard(room)) {
			room = one.Room(t, "alice", "bob")
		}
		one.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": true, "timeout": 120_000})
		one.HTTP.As("bob").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/leave", obj{})
		roletest.Until(t, "nobody types", func() bool { return one.who(t, room) == nil })
	})
}

func TestErrors(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		for _, c := range []struct {
			as, user string
			body     any
			status   int
			code     string
		}{
			{"bob", "alice", obj{"typing": true}, 403, "M_FORBIDDEN"},
			{"carol", "carol", obj{"typing": true}, 403, "M_FORBIDDEN"},
			{"bob", "bob", obj{}, 400, "M_MISSING_PARAM"},
			{"bob", "bob", obj{"typing": true, "timeout": -1}, 400, "M_INVALID_PARAM"},
			{"bob", "bob", obj{"typing": "yes"}, 400, "M_BAD_JSON"},
			{"bob", "bob", obj{"typing": true, "timeout": int64(1) << 60}, 200, ""},
			{"bob", "bob", obj{"typing": true}, 200, ""},
		} {
			got := n.HTTP.As(c.as).Call(path(room, c.user), c.body)
			if got.Status != c.status || got.Errcode() != c.code {
				t.Errorf("%+v: found %d %s", c, got.Status, got.Body)
			}
		}
	})
}

func TestAnotherOwnerGoesOn(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		room := ""
		for room == "" || !two.stream.Owns(two.stream.Shard(room)) {
			room = one.Room(t, "alice", "bob")
		}
		shard := one.stream.Shard(room)
		one.HTTP.As("bob").Want(200, path(room, "bob"), obj{"typing": true, "timeout": 60_000})
		roletest.Until(t, "the row comes", func() bool { return one.stream.Position(shard) == 1 })
		stopTwo()
		roletest.Until(t, "the shard moves", func() bool { return one.stream.Owns(shard) })
		one.HTTP.As("alice").Want(200, path(room, "alice"), obj{"typing": true, "timeout": 90_000})
		if got := one.who(t, room); !slices.Equal(got, []string{"@alice:here.test", "@bob:here.test"}) {
			t.Fatalf("found %v", got)
		}
		one.Clock.Advance(2 * time.Minute)
		roletest.Until(t, "the new owner ends what the old one began", func() bool { return one.stream.Position(shard) == 3 })
	})
}

func FuzzFromRow(f *testing.F) {
	f.Add([]byte(`{"room":"!r:x","users":[{"id":"@u:x","until":9999999999999}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := FromRow(stream.Row{Data: data, Pos: 3})
		if err == nil && s.Pos != 3 {
			t.Fatal("the position is lost")
		}
	})
}
