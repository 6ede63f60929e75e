package receipts

import (
	"net/url"
	"testing"

	"lyceum/rooms/roomstest"
)

func FuzzRequests(f *testing.F) {
	n := harness.Fuzzed(f)
	room := n.Room(f, "alice", "bob")
	root := n.Say(f, "bob", room, "one")
	n.Say(f, "bob", room, "two", obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	foreign := n.Say(f, "bob", n.Room(f, "bob"), "elsewhere")
	events := []string{root, foreign, "$none", ""}
	f.Add(uint8(0), "m.read", uint8(0), []byte(`{}`))
	f.Add(uint8(0), "m.read.private", uint8(0), []byte(`{"thread_id":"main"}`))
	f.Add(uint8(0), "m.read", uint8(1), []byte(`{"thread_id":7}`))
	f.Add(uint8(0), "m.fully_read", uint8(2), []byte(``))
	f.Add(uint8(1), "", uint8(0), []byte(`{"m.fully_read":"$x","m.read":"`+root+`","m.read.private":null}`))
	f.Add(uint8(1), "", uint8(0), []byte(`{"m.fully_read":"`+root+`","m.read":"$none"}`))
	f.Fuzz(func(t *testing.T, op uint8, typ string, event uint8, body []byte) {
		at := roomstest.API + "/rooms/" + url.PathEscape(room)
		if op%2 == 0 {
			n.FuzzRequest(t, "alice", "POST "+at+"/receipt/"+url.PathEscape(typ)+"/"+url.PathEscape(events[int(event)%len(events)]), body)
		} else {
			n.FuzzRequest(t, "alice", "POST "+at+"/read_markers", body)
		}
	})
}
