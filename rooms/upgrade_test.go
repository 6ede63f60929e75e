package rooms

import (
	"fmt"
	"net/url"
	"sync"
	"testing"
)

// TestRoomsMadeAtOnceAreDifferent: also when all that the requests say is the same, in versions whose room id is a hash.
func TestRoomsMadeAtOnceAreDifferent(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, version := range []string{"11", "12"} {
			var mu sync.Mutex
			made := map[string]int{}
			var wg sync.WaitGroup
			for n := range 16 {
				wg.Go(func() {
					id := h.alice.create(obj{"room_version": version, "name": fmt.Sprint(n % 2)})
					mu.Lock()
					defer mu.Unlock()
					made[id]++
				})
			}
			wg.Wait()
			if len(made) != 16 {
				t.Errorf("version %s: 16 requests made %d rooms: %v", version, len(made), made)
			}
		}
	})
}

// TestUpgradesAtOnce: all get the one room that is the replacement, which the aliases name too.
func TestUpgradesAtOnce(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, version := range []string{"11", "12"} {
			alias := "#once" + version + ":example.org"
			old := h.alice.create(obj{
				"room_version": "11", "preset": "public_chat", "room_alias_name": "once" + version,
				"power_level_content_override": obj{"users": obj{h.alice.id: 100, h.bob.id: 100}},
			})
			h.bob.join(old)
			var mu sync.Mutex
			given := map[string]int{}
			var wg sync.WaitGroup
			for n := range 6 {
				wg.Go(func() {
					who := []*person{h.alice, h.bob}[n%2]
					id := who.Want(200, at("POST", old, "upgrade"), obj{"new_version": version}).Get("replacement_room").String()
					mu.Lock()
					defer mu.Unlock()
					given[id]++
				})
			}
			wg.Wait()
			named := h.alice.Want(200, at("GET", old, "state/m.room.tombstone"), nil).Get("replacement_room").String()
			if len(given) != 1 || given[named] != 6 {
				t.Errorf("to version %s: answered were %v, the tombstone names %s", version, given, named)
			}
			if got := h.nobody.Want(200, "GET /_matrix/client/v3/directory/room/"+url.PathEscape(alias), nil).Get("room_id").String(); got != named {
				t.Errorf("to version %s: the alias is of %s, the tombstone names %s", version, got, named)
			}
			for _, who := range []*person{h.alice, h.bob} { // rooms that took nobody's place are left
				for _, room := range who.Want(200, "GET /_matrix/client/v3/joined_rooms", nil).Get("joined_rooms").Array() {
					if id := room.String(); id != old && id != named {
						if who.Want(200, at("GET", id, "state/m.room.create"), nil).Get("predecessor.room_id").String() == old {
							t.Errorf("to version %s: %s is still in %s", version, who.id, id)
						}
					}
				}
			}
			if got := h.bob.Want(200, at("POST", old, "upgrade"), obj{"new_version": version}).Get("replacement_room").String(); got != named {
				t.Errorf("to version %s: a retry got %s, expected %s", version, got, named)
			}
		}
	})
}
