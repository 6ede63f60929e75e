package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/rooms/state"
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
			if level := h.alice.Want(200, at("GET", old, "state/m.room.power_levels"),
				nil).Get("events_default").Int(); (level > 0) != (named != "") {
				t.Errorf("cut after %d ms: the old room takes messages from level %d, its tombstone names %q", 2*n, level, named)
			}
		}
	})
}

// TestAnUpgradeThatWasCutOffIsFinished: by another process, when the one that began it is lost.
func TestAnUpgradeThatWasCutOffIsFinished(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx, b, alice := t.Context(), bus.NewLocal(), "@alice:example.org"
		first, lose := roletest.Join(t, d, b, -1, func(p *role.Process) *Rooms { return wire(t, p) })
		type cut struct {
			old, alias string
			p          pendingUpgrade
		}
		begin := func(name string) cut {
			t.Helper()
			version := "11"
			old, err := first.Create(ctx, alice, &Create{Alias: name, Version: &version, Visibility: "public"})
			if err != nil {
				t.Fatal(err)
			}
			return cut{old: old, alias: "#" + name + ":example.org", p: begun(t, first, alice, old)}
		}
		made, replaced, closed := begin("made"), begin("replaced"), begin("closed")
		if err := errors.Join(first.sendTombstone(ctx, replaced.p), first.sendTombstone(ctx, closed.p), first.closeOld(ctx,
			closed.p)); err != nil {
			t.Fatal(err)
		}
		powerless, gone := begin("powerless"), begin("gone")
		empty := ""
		_, err := first.Send(
			ctx,
			powerless.old,
			Send{Sender: alice, Type: event.TypePowerLevels, StateKey: &empty, Content: json.RawMessage(`{"users":{}}`)},
		)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.setMembership(ctx, gone.p.NewRoom, membershipRequest{
			Sender: alice, Target: alice,
			Membership: event.MembershipLeave,
		}); err != nil {
			t.Fatal(err)
		}
		lose()
		second, _ := roletest.Join(t, d, b, -1, func(p *role.Process) *Rooms { return wireLook(t, p, 10*time.Millisecond) })
		roletest.Until(t, "nothing is left to be done", func() bool { return pending(t, second) == 0 })
		of := func(c cut) (tombstone *Event, level int64) {
			t.Helper()
			h, _, err := second.Head(ctx, c.old)
			if err != nil {
				t.Fatal(err)
			}
			key := state.Key{Type: event.TypeTombstone}
			found, err := second.StateEvents(ctx, h.Root, key)
			if err != nil {
				t.Fatal(err)
			}
			power, err := second.PowerAt(ctx, h.Version, h.Root)
			if err != nil {
				t.Fatal(err)
			}
			return found[key], power.EventsDefault
		}
		for _, c := range []cut{made, replaced, closed} {
			tombstone, level := of(c)
			if tombstone == nil || !strings.Contains(string(tombstone.Content), c.p.NewRoom) || level < 50 {
				t.Errorf("%s: the tombstone is %v, messages need level %d", c.alias, tombstone, level)
			}
			if got, _, err := second.Resolve(ctx, c.alias); err != nil || got != c.p.NewRoom {
				t.Errorf("%s is the alias of %s, %v, expected %s", c.alias, got, err, c.p.NewRoom)
			}
			if v, err := second.DirectoryVisibility(ctx, c.old); err != nil || v != "private" {
				t.Errorf("%s: the old room is %s, %v", c.alias, v, err)
			}
			for typ, want := range map[string]int{event.TypeTombstone: 1, event.TypePowerLevels: 2, event.TypeCanonicalAlias: 2} {
				var n int
				err := d.QueryRow(ctx, "SELECT COUNT(*) FROM events WHERE room_id = $1 AND type = $2", c.old, typ).Scan(&n)
				if err != nil || n != want {
					t.Errorf("%s: there are %d %s, %v, expected %d", c.alias, n, typ, err, want)
				}
			}
			if again, err := second.Upgrade(ctx, alice, c.old, "12", nil); err != nil || again != c.p.NewRoom {
				t.Errorf("%s: a retry got %s, %v, expected %s", c.alias, again, err, c.p.NewRoom)
			}
		}
		for _, c := range []cut{powerless, gone} {
			if tombstone, level := of(c); tombstone != nil || level != 0 {
				t.Errorf("%s: an upgrade that was refused left %v, messages need level %d", c.alias, tombstone, level)
			}
			abandoned(t, second, c.p.NewRoom)
		}
	}, lease.Migrations(), accounts.Migrations(), Migrations())
}

// begun is an upgrade to version 12 that is cut off when the new room is there.
func begun(t *testing.T, r *Rooms, userID, roomID string) pendingUpgrade {
	t.Helper()
	u, err := r.mayUpgrade(t.Context(), userID, roomID, "12")
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.createReplacement(t.Context(), u, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pending counts the upgrades that are not finished.
func pending(t *testing.T, r *Rooms) (n int) {
	t.Helper()
	if err := r.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM room_upgrades").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// abandoned holds that a room has no members and is in no list.
func abandoned(t *testing.T, r *Rooms, id string) {
	t.Helper()
	members, err := r.Members(t.Context(), id, event.MembershipJoin)
	if err != nil || len(members) > 0 {
		t.Errorf("%s has the members %v, %v", id, members, err)
	}
	if v, err := r.DirectoryVisibility(t.Context(), id); err != nil || v != "private" {
		t.Errorf("%s is %s, %v", id, v, err)
	}
}

// TestARetryTakesUpAnUpgrade: of the same user or of another administrator, it gets the room that was made. Where who began may
// not finish, another one's upgrade makes another room.
func TestARetryTakesUpAnUpgrade(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, c := range []struct {
			who         *person
			to          string
			power, same bool
		}{
			{h.alice, "12", true, true},
			{h.bob, "12", true, true},
			{h.alice, "10", true, false},
			{h.bob, "12", false, false},
		} {
			levels := obj{"users": obj{h.alice.id: 100, h.bob.id: 100}}
			old := h.alice.create(obj{"room_version": "11", "preset": "public_chat", "power_level_content_override": levels})
			h.bob.join(old)
			p := begun(t, h.Rooms, h.alice.id, old)
			if !c.power {
				h.alice.state(old, event.TypePowerLevels, "", obj{"users": obj{h.bob.id: 100}})
			}
			got := c.who.Want(200, at("POST", old, "upgrade"), obj{"new_version": c.to}).Get("replacement_room").String()
			if same := got == p.NewRoom; same != c.same {
				t.Errorf("%s to %s got %s, there was %s", c.who.id, c.to, got, p.NewRoom)
			}
			named := h.bob.Want(200, at("GET", old, "state/m.room.tombstone"), nil).Get("replacement_room").String()
			if named != got {
				t.Errorf("the tombstone names %s, answered was %s", named, got)
			}
			if level := h.bob.Want(200, at("GET", old, "state/m.room.power_levels"), nil).Get("events_default").Int(); level < 50 {
				t.Errorf("the old room takes messages from level %d", level)
			}
			if c.to != "12" { // the other one came second
				u, err := h.mayUpgrade(t.Context(), h.alice.id, old, "12")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := h.finish(t.Context(), u, p); !matrix.HasCode(err, matrix.CodeBadState) {
					t.Errorf("an upgrade that came second: %v", err)
				}
			}
			if n := pending(t, h.Rooms); n != 0 {
				t.Errorf("%d upgrades are left", n)
			}
			if !c.same {
				abandoned(t, h.Rooms, p.NewRoom)
			}
		}
	})
}

// TestARefusedUpgradeLeavesNothing: no room, and nothing to be done.
func TestARefusedUpgradeLeavesNothing(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		old := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(old)
		h.bob.refused(403, "M_FORBIDDEN", at("POST", old, "upgrade"), obj{"new_version": "12"})
		h.alice.refused(400, "M_UNSUPPORTED_ROOM_VERSION", at("POST", old, "upgrade"), obj{"new_version": "99"})
		h.alice.Want(400, at("POST", old, "upgrade"), obj{"new_version": "12", "additional_creators": []string{"nobody"}})
		var n int
		if err := h.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM rooms").Scan(&n); err != nil || n != 1 || pending(t, h.Rooms) != 0 {
			t.Errorf("there are %d rooms, %v", n, err)
		}
	})
}
