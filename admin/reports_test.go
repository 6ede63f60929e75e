package admin

import (
	"fmt"
	"testing"

	"lyceum/platform/web"
	"lyceum/reports"
	"lyceum/rooms/roomstest"
)

// TestReportsAreSeenByAdministrators: what users report is listed for administrators, the newest first, page by page.
func TestReportsAreSeenByAdministrators(t *testing.T) {
	type node struct{ *roomstest.Node }
	h := roomstest.NewHarness(func(t testing.TB, n *roomstest.Node) *node {
		n.People["root"] = &web.Identity{UserID: "@root:" + roomstest.Server, Admin: true}
		r := reports.New(reports.Deps{Process: n.Process, Accounts: n.Accounts, Rooms: n.Rooms, Now: n.Clock.Now})
		n.Serve(t, append(r.Routes(), New(Deps{Reports: r, Rooms: n.Rooms}).Routes()...)...)
		return &node{n}
	})
	h.Run(t, func(t *testing.T, n *node) {
		alice, bob, root := n.HTTP.As("alice"), n.HTTP.As("bob"), n.HTTP.As("root")
		room := alice.Want(200, "POST "+roomstest.API+"/createRoom", map[string]any{"preset": "public_chat"}).Get("room_id").String()
		bob.Want(200, "POST "+roomstest.API+"/rooms/"+room+"/join", map[string]any{})
		var events []string
		for i := range 3 {
			sent := alice.Want(
				200,
				fmt.Sprintf("PUT %s/rooms/%s/send/m.room.message/%d", roomstest.API, room, i),
				map[string]any{"msgtype": "m.text", "body": "rude"},
			)
			events = append(events, sent.Get("event_id").String())
			bob.Want(200, "POST "+roomstest.API+"/rooms/"+room+"/report/"+events[i], map[string]any{"reason": fmt.Sprint("reason ", i)})
		}
		bob.Want(200, "POST "+roomstest.API+"/rooms/"+room+"/report", map[string]any{"reason": "a bad room"})

		const list = "GET " + synapse + "/event_reports"
		alice.Want(403, list, nil)
		page := root.Want(200, list+"?limit=2", nil)
		first := page.Get("event_reports.0")
		if page.Get("total").Int() != 3 || page.Get("next_token").Int() != 2 || len(page.Get("event_reports").Array()) != 2 ||
			first.Get("reason").String() != "reason 2" || first.Get("event_id").String() != events[2] || first.Get("room_id").String() != room ||
			first.Get("user_id").String() != "@bob:here.test" || first.Get("sender").String() != "@alice:here.test" ||
			first.Get("received_ts").Int() == 0 {
			t.Errorf("found %s", page.Body)
		}
		rest := root.Want(200, list+"?limit=2&from=2", nil)
		if rest.Get("event_reports.0.reason").String() != "reason 0" || rest.Get("next_token").Exists() {
			t.Errorf("found %s", rest.Body)
		}
		if oldest := root.Want(200, list+"?dir=f&user_id=@bob:here.test", nil); oldest.Get("event_reports.0.reason").String() != "reason 0" {
			t.Errorf("found %s", oldest.Body)
		}
		if none := root.Want(200, list+"?user_id=@alice:here.test", nil); none.Get("total").Int() != 0 || none.Get("event_reports").Raw != "[]" {
			t.Errorf("found %s", none.Body)
		}
		root.Want(400, list+"?dir=up", nil)
		if x := root.Want(200, "GET "+synapse+"/room_reports", nil); x.Get("total").Int() != 1 ||
			x.Get("room_reports.0.reason").String() != "a bad room" {
			t.Errorf("found %s", x.Body)
		}
		if x := root.Want(200, "GET "+synapse+"/user_reports", nil); x.Get("total").Int() != 0 {
			t.Errorf("found %s", x.Body)
		}

		one := "/event_reports/" + first.Get("id").String()
		alice.Want(403, "GET "+synapse+one, nil)
		if x := root.Want(200, "GET "+synapse+one, nil); x.Get("event_json.content.body").String() != "rude" {
			t.Errorf("found %s", x.Body)
		}
		alice.Want(403, "DELETE "+synapse+one, nil)
		root.Want(200, "DELETE "+synapse+one, nil)
		root.Want(404, "DELETE "+synapse+one, nil)
		root.Want(404, "GET "+synapse+one, nil)
	})
}
