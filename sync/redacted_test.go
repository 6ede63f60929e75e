package sync

import (
	"net/url"
	"strings"
	"sync"
	"testing"

	"lyceum/rooms"
)

// TestManyReadersOfWhatWasRedacted: of readers that find at once that an event in memory was redacted, each gets the
// redacted one, also when another one has just put it in its place.
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
	rows, _ := h.events.since(shard, room, 0, 1<<62)
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
				q := &query{s: h.Sync, filter: &filter{}, view: &view{}}
				list, _, err := q.newest(t.Context(), span{roomID: room, shard: shard, upto: 1 << 62}, 2)
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
