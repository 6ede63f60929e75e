package push

import (
	"net/url"
	"testing"

	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
	"lyceum/rooms/roomstest"
)

// worked waits until the consumer has worked through all events.
func (n *node) worked(t testing.TB) {
	t.Helper()
	heads := n.events.Positions()
	roletest.Until(t, "all is worked off", func() bool {
		upto, err := n.events.Consumed(t.Context())
		for shard := range heads {
			if err != nil || upto[shard] < heads[shard] {
				return false
			}
		}
		return true
	})
}

// rowOf reads the row of an event.
func (n *node) rowOf(t testing.TB, eventID string) stream.Row {
	t.Helper()
	e, err := n.Rooms.Event(t.Context(), eventID)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := n.events.Read(t.Context(), stream.Range{Shard: n.events.Shard(e.RoomID), After: e.Pos - 1, Upto: e.Pos, Limit: 1})
	if err != nil || len(rows) != 1 {
		t.Fatalf("found %d rows, %v", len(rows), err)
	}
	return rows[0]
}

// told returns how many notifications an event makes for each user now.
func (n *node) told(t testing.TB, eventID string) map[string]int {
	t.Helper()
	e, err := n.Rooms.FromRow(n.rowOf(t, eventID))
	if err != nil {
		t.Fatal(err)
	}
	list, err := n.notificationsOf(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, x := range list {
		out[x.pusher.UserID]++
	}
	return out
}

func (n *node) invite(t testing.TB, room, who string) string {
	t.Helper()
	n.HTTP.As("alice").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/invite", obj{"user_id": "@" + who + ":here.test"})
	m, err := n.Rooms.Membership(t.Context(), "@"+who+":here.test", room)
	if err != nil {
		t.Fatal(err)
	}
	return m.EventID
}

// TestWhoJoinsIsNotToldOfBefore: also when the consumer is late. A new display name is not a new join.
func TestWhoJoinsIsNotToldOfBefore(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		n.pusher(t, "bob", g.URL, "b", obj{})
		n.pusher(t, "carol", g.URL, "c", obj{})
		room := n.Room(t, "alice", "carol")
		at, bob := roomstest.API+"/rooms/"+url.PathEscape(room), "@bob:here.test"
		secret := n.Say(t, "alice", room, "secret")
		n.HTTP.As("bob").Want(200, "POST "+at+"/join", obj{})
		if told := n.told(t, secret); told[bob] != 0 || told["@carol:here.test"] != 1 {
			t.Errorf("before the join: found %v", told)
		}
		hello := n.Say(t, "alice", room, "hello bob")
		for _, who := range []string{"bob", "carol"} {
			n.HTTP.As(who).Want(200, "PUT "+at+"/state/m.room.member/@"+who+":here.test", obj{"membership": "join", "displayname": "another name"})
		}
		if told := n.told(t, hello); told[bob] != 1 || told["@carol:here.test"] != 1 {
			t.Errorf("after the join, before a new name: found %v", told)
		}
		if told := n.told(t, secret); told[bob] != 0 || told["@carol:here.test"] != 1 {
			t.Errorf("before the join and a new name: found %v", told)
		}
		n.HTTP.As("bob").Want(200, "POST "+at+"/leave", obj{})
		away := n.Say(t, "alice", room, "bob is away")
		n.HTTP.As("bob").Want(200, "POST "+at+"/join", obj{})
		if told := n.told(t, away); told[bob] != 0 {
			t.Errorf("while away: found %v", told)
		}
		n.worked(t)
		roletest.Until(t, "carol is told", func() bool { _, times := g.find(secret); return times > 0 })
		if _, times := g.find(secret); times != 1 {
			t.Errorf("expected that only carol is sent what was before bob, found %d", times)
		}
	})
}

// TestInvitesThatAreGoneAreNotTold, and an accepted invite is not sent twice.
func TestInvitesThatAreGoneAreNotTold(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		for _, who := range []string{"bob", "carol", "dave"} {
			n.pusher(t, who, g.URL, who, obj{})
		}
		room := n.Room(t, "alice")
		at := "POST " + roomstest.API + "/rooms/" + url.PathEscape(room)
		open, followed, refused := n.invite(t, room, "bob"), n.invite(t, room, "carol"), n.invite(t, room, "dave")
		n.HTTP.As("carol").Want(200, at+"/join", obj{})
		n.HTTP.As("dave").Want(200, at+"/leave", obj{})
		if told := n.told(t, open); told["@bob:here.test"] != 1 {
			t.Errorf("an invite: found %v", told)
		}
		if told := n.told(t, followed); told["@carol:here.test"] != 0 {
			t.Errorf("an invite and a join: found %v", told)
		}
		if told := n.told(t, refused); told["@dave:here.test"] != 0 {
			t.Errorf("an invite that was refused: found %v", told)
		}
	})
}
