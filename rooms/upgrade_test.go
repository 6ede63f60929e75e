package rooms

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"lyceum/platform/db"
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

// TestARoomAndItsAliasAreOne: whatever becomes of the one who asked for a room, its alias is there when the room is, and only
// then. Of requests with one alias, one gets it.
func TestARoomAndItsAliasAreOne(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		var wg sync.WaitGroup
		for n := range 60 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*4*time.Millisecond)
				defer cancel()
				_, _ = h.Create(ctx, h.alice.id, &Create{Alias: fmt.Sprint("cut", n)}) // who gives up does not know how it ended
			})
		}
		var mu sync.Mutex
		given := map[int]int{}
		for range 8 {
			wg.Go(func() {
				a := h.bob.Call("POST /_matrix/client/v3/createRoom", obj{"room_alias_name": "wanted"})
				if a.Status != 200 && a.Errcode() != "M_ROOM_IN_USE" {
					t.Errorf("%d %s", a.Status, a.Body)
				}
				mu.Lock()
				defer mu.Unlock()
				given[a.Status]++
			})
		}
		wg.Wait()
		if given[200] != 1 {
			t.Errorf("one alias was given to rooms so often: %v", given)
		}
		// What was on its way is written by now: this room comes after all of a shard, and each shard has one.
		for range 4 * Shards {
			h.alice.create(obj{})
		}
		aliases, err := db.Map[string, string](h.Process.DB.Query(t.Context(), "SELECT room_id, alias FROM aliases"))
		if err != nil {
			t.Fatal(err)
		}
		for room, alias := range aliases {
			if _, ok, err := h.Head(t.Context(), room); err != nil || !ok {
				t.Errorf("%s is the alias of %s, which is not there: %v", alias, room, err)
			}
		}
		named, err := db.Texts(h.Process.DB.Query(t.Context(), "SELECT room_id FROM events WHERE type = 'm.room.canonical_alias'"))
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range named {
			if aliases[room] == "" {
				t.Errorf("room %s tells of an alias that is not there", room)
			}
		}
		if len(named) != len(aliases) || len(named) == 0 {
			t.Errorf("%d rooms have an alias, %d tell of one", len(aliases), len(named))
		}
	})
}

// TestAnUpgradeIsFinished: also when the one who asked for it is gone.
func TestAnUpgradeIsFinished(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for n := range 12 {
			alias := fmt.Sprintf("#old%d:example.org", n)
			old := h.alice.create(obj{"room_version": "11", "room_alias_name": fmt.Sprint("old", n)})
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*2*time.Millisecond)
			_, _ = h.Upgrade(ctx, h.alice.id, old, "12", nil)
			cancel()
			named := h.alice.Call(at("GET", old, "state/m.room.tombstone"), nil).Get("replacement_room").String()
			want := old
			if named != "" {
				want = named
			}
			if got, _, err := h.Resolve(t.Context(), alias); got != want || err != nil {
				t.Errorf("cut after %d ms: the alias is of %s, %v, expected %s", 2*n, got, err, want)
			}
			if level := h.alice.Want(200, at("GET", old, "state/m.room.power_levels"), nil).Get("events_default").Int(); (level > 0) != (named != "") {
				t.Errorf("cut after %d ms: the old room takes messages from level %d, its tombstone names %q", 2*n, level, named)
			}
		}
	})
}
