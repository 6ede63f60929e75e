package directory

import (
	"net/url"
	"testing"
)

// FuzzRequests sends bodies and parameters to all endpoints: none may make the server fail, and what is refused
// changes nothing.
func FuzzRequests(f *testing.F) {
	h := harness.Fuzzed(f)
	space := h.alice.Want(200, "POST "+v3+"/createRoom", obj{
		"preset": "public_chat", "name": "space",
		"creation_content": obj{"type": "m.space"},
	}).
		Get("room_id").String()
	room := h.alice.Want(200, "POST "+v3+"/createRoom", obj{"preset": "public_chat", "name": "a room", "visibility": "public"}).
		Get("room_id").String()
	h.alice.Want(200, "PUT "+at(space, "state/m.space.child/"+url.PathEscape(room)), obj{"via": []string{server}})
	h.alice.Want(200, "PUT "+at(room, "send/m.room.message/1"), obj{"msgtype": "m.text", "body": "hello world"})
	targets := []string{
		"POST " + v3 + "/publicRooms", "POST " + v3 + "/search", "POST " + v3 + "/user_directory/search",
		"PUT " + v3 + "/directory/list/room/" + url.PathEscape(room), "PUT " + v3 + "/directory/list/room/" + url.PathEscape("!none"),
		"GET " + v3 + "/publicRooms", "GET /_matrix/client/v1/rooms/" + url.PathEscape(space) + "/hierarchy",
		"GET " + v3 + "/directory/list/room/" + url.PathEscape(room), "POST " + v3 + "/search",
	}
	f.Add(uint8(0), "", []byte(`{"limit":1,"filter":{"generic_search_term":"room","room_types":[null,"m.space"]}}`))
	f.Add(uint8(0), "server=other", []byte(`{"since":"x","limit":-1}`))
	f.Add(
		uint8(1),
		"next_batch=1",
		[]byte(
			`{"search_categories":{"room_events":{"search_term":"hello","keys":["content.body"],"order_by":"recent",`+
				`"event_context":{"before_limit":1,"after_limit":1,"include_profile":true},"groupings":{"group_by":[{"key":"room_id"},`+
				`{"key":"sender"}]},"include_state":true,"filter":{"limit":3,"rooms":["x"]}}}}`,
		),
	)
	f.Add(uint8(1), "next_batch=", []byte(`{"search_categories":{"room_events":{"search_term":"\u0000 \"quoted\" -not* OR (near"}}}`))
	f.Add(uint8(2), "", []byte(`{"search_term":"ali%_\\","limit":2}`))
	f.Add(uint8(3), "", []byte(`{"visibility":"private"}`))
	f.Add(uint8(3), "", []byte(`{"visibility":"hidden"}`))
	f.Add(uint8(4), "", []byte(`{"visibility":"public"}`))
	f.Add(uint8(5), "limit=0&since=abc&server=x", []byte(nil))
	f.Add(uint8(6), "suggested_only=true&limit=1&max_depth=2&from=abc", []byte(nil))
	f.Add(uint8(6), "suggested_only=7&limit=-5&max_depth=99999999999999999999", []byte(nil))
	f.Fuzz(func(t *testing.T, to uint8, query string, body []byte) {
		target := targets[int(to)%len(targets)]
		if values, err := url.ParseQuery(query); err == nil && len(values) > 0 {
			target += "?" + values.Encode()
		}
		who := []string{"alice", "bob"}[int(to)/len(targets)%2]
		h.FuzzRequest(t, who, target, body)
	})
}
