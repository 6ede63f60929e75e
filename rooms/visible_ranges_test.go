package rooms

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"lyceum/matrix/event"
)

// What is bundled with an event, and counted of it, is what the asker may see.
func TestAggregationsKeepToWhatTheReaderMaySee(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		h.bob.join(id)
		relates := func(relType, target string) obj {
			return obj{
				"msgtype":       "m.text",
				"body":          relType,
				"m.relates_to":  obj{"rel_type": relType, "event_id": target},
				"m.new_content": obj{"body": "new"},
			}
		}
		add := func(relType, target string) string {
			return h.alice.send(id, "m.room.message", relates(relType, target))
		}
		root, other := h.alice.say(id, "root"), h.alice.say(id, "other")
		seen := add("m.thread", root)
		add("m.thread", other)
		shown := add("m.reference", root)
		edit := add("m.replace", root)
		h.bob.leave(id)
		for range 4 { // more than the edits that are looked at
			add("m.thread", root)
			add("m.reference", root)
			add("m.replace", root)
		}
		add("m.thread", root)
		h.bob.join(id)
		check := func(who *person, count int, latest, newest string, references int) {
			t.Helper()
			rel := who.Want(200, at("GET", id, "event/"+esc(root)), nil).Get(`unsigned.m\.relations`)
			thread, refs := rel.Get(`m\.thread`), rel.Get(`m\.reference.chunk`)
			if thread.Get("count").Int() != int64(count) || thread.Get("latest_event.event_id").String() != latest ||
				rel.Get(`m\.replace.event_id`).String() != newest || len(refs.Array()) != references {
				t.Errorf("expected %d in the thread up to %s, the edit %s and %d references, found %s", count, latest, newest, references, rel)
			}
		}
		check(h.bob, 1, seen, edit, 1)
		if first := h.bob.Want(200, at("GET", id, "event/"+esc(root)),
			nil).Get(`unsigned.m\.relations.m\.reference.chunk.0.event_id`).String(); first != shown {
			t.Errorf("the reference is %s, expected %s", first, shown)
		}
		threads := func(who *person, want ...string) {
			t.Helper()
			var got []string
			for from := ""; ; {
				a := who.Want(200, at1("GET", id, "threads?limit=1"+from), nil)
				for _, e := range a.Get("chunk").Array() {
					got = append(got, e.Get("event_id").String())
				}
				if !a.Get("next_batch").Exists() {
					break
				}
				from = "&from=" + a.Get("next_batch").String()
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("threads %v, expected %v", got, want)
			}
		}
		threads(h.bob, other, root)
		threads(h.alice, root, other)
		page := h.bob.Want(200, at1("GET", id, "relations/"+esc(root)+"/m.thread?limit=1"), nil)
		if page.Get("chunk.0.event_id").String() != seen || page.Get("next_batch").Exists() {
			t.Errorf("the newest that bob may see of the thread is %s: %s", seen, page.Body)
		}
		now := add("m.thread", root)
		check(h.bob, 2, now, edit, 1)
		// Those who left a room see of its threads what was before.
		h.carol.join(id)
		h.alice.state(id, "m.room.history_visibility", "", obj{"history_visibility": "shared"})
		open := h.alice.say(id, "open")
		before := add("m.thread", open)
		h.carol.leave(id)
		add("m.thread", open)
		thread := h.carol.Want(200, at("GET", id, "event/"+esc(open)), nil).Get(`unsigned.m\.relations.m\.thread`)
		if thread.Get("count").Int() != 1 || thread.Get("latest_event.event_id").String() != before {
			t.Errorf("one who left sees %s", thread)
		}
	})
}

// Filters by relations do not tell a reader of relations that are out of sight, or of those by whom the reader ignores.
func TestFiltersKeepToRelationsInSight(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		h.bob.join(id)
		react := func(target string) {
			h.alice.send(id, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": target, "key": "+"}})
		}
		before, meanwhile := h.alice.say(id, "before"), h.alice.say(id, "meanwhile")
		react(before)
		h.bob.leave(id)
		react(meanwhile)
		h.bob.join(id)
		check := func(who *person, want ...string) {
			t.Helper()
			for _, filter := range []obj{{"related_by_senders": []string{h.alice.id}}, {"related_by_rel_types": []string{"m.annotation"}}} {
				text := string(encodeJSON(filter))
				var got []string
				page := who.Want(200, at("GET", id, "messages?dir=f&limit=100&filter="+esc(text)), nil)
				for _, e := range page.Get("chunk").Array() {
					got = append(got, e.Get("event_id").String())
				}
				around := who.Want(200, at("GET", id, "context/"+esc(before)+"?limit=100&filter="+esc(text)), nil)
				for _, e := range around.Get("events_after").Array() {
					got = append(got, e.Get("event_id").String())
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s gets %v by %s, expected %v", who.id, got, text, want)
				}
			}
		}
		check(h.alice, before, meanwhile, meanwhile)
		check(h.bob, before)
		if err := h.Accounts.PutAccountData(t.Context(), h.bob.id, "", "m.ignored_user_list",
			encodeJSON(obj{"ignored_users": obj{h.alice.id: obj{}}})); err != nil {
			t.Fatal(err)
		}
		check(h.bob)
	})
}

// The visible ranges of a user agree with the visibility of each event.
func TestVisibleRangesAgreeWithVisibility(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		for range 4 {
			id := h.alice.create(obj{"preset": "public_chat"})
			for i := range 60 {
				who := []*person{h.bob, h.carol}[r.IntN(2)]
				switch r.IntN(8) {
				case 0:
					h.alice.state(
						id,
						"m.room.history_visibility",
						"",
						obj{"history_visibility": []string{"joined", "invited", "shared", "world_readable"}[r.IntN(4)]},
					)
				case 1:
					h.alice.Call(at("POST", id, "invite"), obj{"user_id": who.id})
				case 2, 3:
					who.Call(at("POST", id, "join"), obj{})
				case 4:
					who.Call(at("POST", id, "leave"), obj{})
				default:
					h.alice.say(id, fmt.Sprint(i))
				}
			}
			events, err := h.Timeline(t.Context(), Page{RoomID: id, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, who := range []*person{h.alice, h.bob, h.carol} {
				s, _, err := h.findMembershipView(t.Context(), who.id, id)
				if err != nil {
					t.Fatal(err)
				}
				z, err := h.visibleRangesOf(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				visible, err := h.CanSee(t.Context(), who.id, id, events)
				if err != nil {
					t.Fatal(err)
				}
				visibility, err := h.VisibilityOf(t.Context(), who.id, id, events)
				if err != nil {
					t.Fatal(err)
				}
				for i, e := range events {
					switch {
					case e.Is(event.TypeMember, who.id):
					case !e.IsState() && z.contains(e.Pos) != visible[i], e.IsState() && z.showsState(e.Type, e.Pos) != visible[i]:
						t.Fatalf("%s at %d: visible %v, the visible ranges are %+v", who.id, e.Pos, visible[i], z)
					case !z.all && z.wasMember(e.Pos) != (visibility[i].Membership == event.MembershipJoin):
						t.Fatalf("%s at %d: %s, the visible ranges are %+v", who.id, e.Pos, visibility[i].Membership, z)
					}
				}
			}
		}
	})
}
