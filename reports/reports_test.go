package reports

import (
	"net/url"
	"testing"

	"lyceum/rooms/roomstest"
)

type obj = map[string]any

// node is a process that serves reports.
type node struct {
	*Reports
	*roomstest.Node
}

var harness = roomstest.NewHarness(func(t testing.TB, on *roomstest.Node) *node {
	n := &node{New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, Now: on.Clock.Now}), on}
	on.Serve(t, n.Routes()...)
	return n
})

func ofRoom(id string) string {
	return "POST " + roomstest.API + "/rooms/" + url.PathEscape(id) + "/report"
}

func ofUser(id string) string { return "POST " + roomstest.API + "/users/" + id + "/report" }

// TestWhoMayReport: members report events that they see; everybody reports rooms and users that there are.
func TestWhoMayReport(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		ctx, bob := t.Context(), n.HTTP.As("bob")
		id := n.Room(t, "alice")
		said := n.Say(t, "alice", id, "bad words")
		about := ofRoom(id) + "/" + url.PathEscape(said)
		bob.Want(404, about, obj{"reason": "x"})
		bob.Want(200, "POST "+roomstest.API+"/join/"+url.PathEscape(id), obj{})
		bob.Want(200, about, obj{"reason": "event", "score": -100})
		bob.Want(404, ofRoom(id)+"/$nothere", obj{"reason": "x"})
		bob.Want(404, ofRoom(n.Room(t, "bob"))+"/"+url.PathEscape(said), obj{"reason": "an event of another room"})
		bob.Want(200, ofRoom(id), obj{"reason": "room"})
		bob.Want(404, ofRoom("!nothere:"+roomstest.Server), obj{"reason": "room"})
		bob.Want(404, ofUser("@nobody:"+roomstest.Server), obj{"reason": "user"})
		list, err := n.List(ctx, "", 10)
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		before, err := n.List(ctx, list[0].ID, 10)
		if err != nil || len(before) != 1 || before[0] != list[1] {
			t.Fatal(before, err)
		}
	})
}

// TestHiddenEventsAreNotReported: a member does not report what was said before the member came, where that is hidden.
func TestHiddenEventsAreNotReported(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		alice, bob := n.HTTP.As("alice"), n.HTTP.As("bob")
		id := n.Room(t, "alice")
		alice.Want(200, "PUT "+roomstest.API+"/rooms/"+url.PathEscape(id)+"/state/m.room.history_visibility", obj{"history_visibility": "joined"})
		hidden := n.Say(t, "alice", id, "hidden")
		bob.Want(200, "POST "+roomstest.API+"/join/"+url.PathEscape(id), obj{})
		bob.Want(404, ofRoom(id)+"/"+url.PathEscape(hidden), obj{"reason": "x"})
	})
}
