package syncapi

import (
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/web/webtest"
	"lyceum/rooms"
)

// TestManyReadersOfWhatWasRedacted: when several requests find at once that an event in memory was redacted, each gets the
// redacted event, also when another request has just replaced it.
func TestManyReadersOfWhatWasRedacted(t *testing.T) {
	h := open(t, "sqlite")
	alice := h.as(t, "alice")
	room := alice.Want(200, "POST /_matrix/client/v3/createRoom", obj{}).Get("room_id").String()
	alice.sync()
	event := alice.say(room, "secret")
	alice.sync()
	shard := h.Rooms.Stream().Shard(room)
	is := func(e *rooms.Event) bool { return e.ID == event }
	h.mu.RLock()
	rows, _ := h.events.between(shard, room, 0, 1<<62)
	old := rows[len(rows)-1].value
	h.mu.RUnlock()
	if old.ID != event {
		t.Fatalf("the newest event in memory is %s, expected %s", old.ID, event)
	}
	alice.Want(200, "PUT "+at(room, "redact/"+url.PathEscape(event)+"/r"), obj{})
	for range 3000 { // as if it were redacted now
		h.mu.Lock()
		h.events.replace(room, is, old)
		h.redacted[event] = struct{}{}
		h.mu.Unlock()
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				q := &query{s: h.Sync, filter: &filter{}, scratch: &scratch{}}
				list, _, err := q.newestEvents(t.Context(), eventRange{roomID: room, shard: shard, upto: 1 << 62}, 2)
				if err != nil {
					t.Error(err)
				}
				for _, e := range list {
					if strings.Contains(string(e.JSON), "secret") {
						t.Error("a reader gets an event as it was before its redaction")
					}
				}
			})
		}
		readers.Wait()
	}
}

// TestWhoReadsTheReasonOfARedaction: all users see that an event is redacted, but the reason only if they may see the redaction.
func TestWhoReadsTheReasonOfARedaction(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob, carol := h.as(t, "alice"), h.as(t, "bob"), h.as(t, "carol")
		for history, after := range map[string]bool{"world_readable": true, "shared": true, "invited": false, "joined": false} {
			room := alice.create(
				obj{
					"preset":        "public_chat",
					"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
				},
			)
			bob.do(room, "join", nil)
			carol.do(room, "join", nil)
			said, set := alice.say(room, "said"), alice.state(room, "org.example.x", "", obj{"x": "set"})
			bob.sync()
			alice.say(room, "more")
			bob.do(room, "leave", nil)
			for i, e := range []string{said, set} {
				alice.Want(200, "PUT "+at(room, "redact/"+url.PathEscape(e)+"/r"+strconv.Itoa(i)), obj{"reason": "a secret"})
			}
			check := func(when string, a gjson.Result, told bool, least int) {
				t.Helper()
				n := 0
				webtest.Events(a, func(e gjson.Result) {
					if id := e.Get("event_id").String(); id != said && id != set {
						return
					}
					n++
					because := e.Get("unsigned.redacted_because")
					if because.Get("type").String() != "m.room.redaction" || because.Get("content.reason").Exists() != told {
						t.Errorf("%s, %s: %s", history, when, e)
					}
				})
				if n < least {
					t.Errorf("%s, %s: %d events of 2: %s", history, when, n, a)
				}
			}
			anew := func(c *client) *client { return &client{Client: c.Client, t: t} }
			check("stayed", in(anew(carol).peek(), "join", room, ""), true, 2)
			check("left", in(bob.peek("full_state", "true"), "leave", room, ""), history == "world_readable", 1)
			check(
				"long left",
				in(anew(bob).peek("filter", `{"room":{"include_leave":true,"timeline":{"limit":100}}}`), "leave", room, ""),
				history == "world_readable",
				2,
			)
			bob.do(room, "join", nil)
			check("back", in(anew(bob).peek("filter", `{"room":{"timeline":{"limit":1}}}`), "join", room, ""), after, 1)
			check("back", in(anew(bob).peek("filter", `{"room":{"timeline":{"limit":100}}}`), "join", room, ""), after, 2)
		}
	})
}
