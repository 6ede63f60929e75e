package rooms

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// TestEveryRoomVersion: rooms of all versions are made, talked in, redacted in and upgraded, and clients see no difference but in ids.
func TestEveryRoomVersion(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for n, v := range event.Versions() {
			id := h.alice.create(obj{
				"room_version": v.ID, "preset": "public_chat", "name": "N", "topic": "T",
				"power_level_content_override": obj{"redact": 60},
			})
			create := h.alice.Want(200, at("GET", id, "state/m.room.create?format=event"), nil)
			if got := create.Get("content.room_version").String(); got != v.ID {
				t.Fatalf("version %s: the create event says %s", v.ID, got)
			}
			if create.Get("content.creator").Exists() != v.CreatorInContent {
				t.Errorf("version %s: %s", v.ID, create.Body)
			}
			h.bob.join(id)
			said := h.bob.say(id, "said")
			if withServer := strings.HasSuffix(said, ":"+server); withServer != (v.IDFormat == event.IDField) {
				t.Errorf("version %s: the id of an event is %s", v.ID, said)
			}
			if again := h.bob.Want(200, at("PUT", id, "send/m.room.message/twice"), obj{"body": "b"}).Get("event_id").String(); again !=
				h.bob.Want(200, at("PUT", id, "send/m.room.message/twice"), obj{"body": "b"}).Get("event_id").String() {
				t.Errorf("version %s: one transaction made two events", v.ID)
			}
			shown := h.alice.Want(200, at("GET", id, "event/"+esc(said)), nil)
			if shown.Get("event_id").String() != said || shown.Get("prev_events").Exists() || shown.Get("auth_events").Exists() {
				t.Errorf("version %s: clients get %s", v.ID, shown.Body)
			}
			stored, err := h.Event(t.Context(), said)
			if err != nil || stored.Version().ID != v.ID || len(stored.PrevEvents) != 1 ||
				(matrix.Lookup(stored.JSON, "event_id") != nil) != (v.IDFormat == event.IDField) {
				t.Errorf("version %s: %s %v", v.ID, stored.JSON, err)
			}
			theirs := h.alice.say(id, "hers")
			h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "redact/"+esc(theirs)+"/1"), obj{})
			by := h.bob.Want(200, at("PUT", id, "redact/"+esc(said)+"/2"), obj{"reason": "r"}).Get("event_id").String()
			redaction := h.alice.Want(200, at("GET", id, "event/"+esc(by)), nil)
			if redaction.Get("redacts").String() != said || redaction.Get("content.redacts").String() != said {
				t.Errorf("version %s: a redaction is shown as %s", v.ID, redaction.Body)
			}
			if a := h.alice.Want(200, at("GET", id, "event/"+esc(said)), nil); a.Get("content.body").Exists() ||
				a.Get("unsigned.redacted_because.event_id").String() != by {
				t.Errorf("version %s: a redacted event is shown as %s", v.ID, a.Body)
			}
			knock := "POST /_matrix/client/v3/knock/"
			private := h.alice.create(
				obj{"room_version": v.ID, "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}},
			)
			if v.Knock {
				h.bob.Want(200, knock+esc(private), obj{})
			} else {
				h.bob.refused(403, "M_FORBIDDEN", knock+esc(private), obj{})
			}
			next := event.Versions()[(n+1)%len(event.Versions())]
			upgraded := h.alice.Want(200, at("POST", id, "upgrade"), obj{"new_version": next.ID}).Get("replacement_room").String()
			h.bob.join(upgraded)
			h.bob.say(upgraded, "here now")
			if a := h.alice.Want(200, at("GET", upgraded, "state/m.room.create"), nil); a.Get("room_version").String() != next.ID ||
				a.Get("predecessor.room_id").String() != id {
				t.Errorf("upgrade from %s to %s: %s", v.ID, next.ID, a.Body)
			}
		}
	})
}

// TestLevelsAsStrings: what older room versions take as a level becomes a number when a room is upgraded to a version that takes
// numbers only, and so does all else that the new version would refuse.
func TestLevelsAsStrings(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		old := h.alice.create(obj{"room_version": "5", "preset": "public_chat"})
		h.alice.state(old, "m.room.name", "", obj{"name": "N"})
		h.alice.state(old, "m.room.avatar", "", obj{"url": "mxc://x/y", "info": obj{"ratio": 1.5}})
		h.alice.state(old, "m.room.power_levels", "", obj{
			"users": obj{
				h.alice.id: "100",
				h.bob.id:   "51",
			}, "ban": "51", "invite": 20.0, "events": obj{"m.room.name": "52"}, "notifications": obj{"room": "7"},
		})
		h.bob.join(old)
		h.bob.refused(403, "M_FORBIDDEN", at("PUT", old, "state/m.room.name/"), obj{"name": "B"})
		for _, to := range []string{"9", "10", "12"} {
			id := h.alice.Want(200, at("POST", old, "upgrade"), obj{"new_version": to}).Get("replacement_room").String()
			a := h.alice.Want(200, at("GET", id, "state/m.room.power_levels"), nil)
			if to != "9" && (a.Get("ban").Raw != "51" || a.Get("events.m\\.room\\.name").Raw != "52" || a.Get("notifications.room").Raw != "7") {
				t.Errorf("version %s: %s", to, a.Body)
			}
			h.bob.join(id)
			h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.name/"), obj{"name": "B"})
			old = id
		}
	})
}

// TestAliasesOfStrangers: the rules of the old room versions let anybody send m.room.aliases, and here only members may.
func TestAliasesOfStrangers(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for n := 1; n <= 5; n++ {
			id := h.alice.create(obj{"room_version": fmt.Sprint(n), "preset": "public_chat"})
			h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.aliases/"+server), obj{"aliases": []string{}})
			h.bob.join(id)
			h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.aliases/elsewhere.example"), obj{"aliases": []string{}})
			h.bob.state(id, "m.room.aliases", server, obj{"aliases": []string{}})
		}
	})
}

// TestLevelsOfCreators: in version 12 creators have no level. One that a client gives to the creator of a room whose version it did not
// choose is left out; who asks for that version, or sets levels later, is told.
func TestLevelsOfCreators(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		levels := obj{"users": obj{h.alice.id: 100, h.bob.id: 50}}
		id := h.alice.create(obj{"power_level_content_override": levels, "preset": "public_chat"}) // the default here is 12
		if a := h.alice.Want(200, at("GET", id, "state/m.room.power_levels"), nil); a.Get("users").Raw != `{"`+h.bob.id+`":50}` {
			t.Errorf("%s", a.Body)
		}
		h.alice.refused(
			400,
			"M_INVALID_PARAM",
			"POST /_matrix/client/v3/createRoom",
			obj{"power_level_content_override": levels, "room_version": "12"},
		)
		h.alice.refused(400, "M_INVALID_PARAM", at("PUT", id, "state/m.room.power_levels/"), levels)
		h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.power_levels/"), levels)
		old := h.alice.create(obj{"power_level_content_override": levels, "room_version": "11"})
		if a := h.alice.Want(200, at("GET", old, "state/m.room.power_levels"), nil); a.Get("users").Get(gjson.Escape(h.alice.id)).Int() != 100 {
			t.Errorf("%s", a.Body)
		}
		for _, room := range []string{id, old} {
			h.alice.refused(400, "M_INVALID_PARAM", at("PUT", room, "state/m.room.create/"), obj{"room_version": "12", "x": 1})
		}
	})
}

func TestDefaultVersionIsKnown(t *testing.T) {
	for version, ok := range map[string]bool{"1": true, "11": true, "12": true, "": false, "13": false} {
		c := Config{DefaultVersion: version}
		if err := c.Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
	}
}
