package rooms

import (
	"context"
	"math"
	"testing"
)

// TestWhoMayRedact holds what a member may take back: own events, and those of others with the level "redact".
// What a room stands on is taken back by nobody.
func TestWhoMayRedact(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, version := range []string{"10", "12"} {
			id := h.alice.create(obj{"preset": "public_chat", "room_version": version, "initial_state": []obj{
				{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}},
				{"type": "m.room.server_acl", "content": obj{"allow": []string{"*"}}},
			}})
			h.bob.join(id)
			current := func(typ string) string {
				return h.alice.Want(200, at("GET", id, "state/"+typ+"?format=event"), nil).Get("event_id").String()
			}
			theirs, mine := h.alice.say(id, "hers"), h.bob.say(id, "his")
			targets := []string{theirs}
			for _, typ := range []string{"m.room.create", "m.room.encryption", "m.room.server_acl", "m.room.power_levels", "m.room.join_rules"} {
				targets = append(targets, current(typ))
			}
			ways := func(event, txn string, ask func(target string, body any)) {
				ask(at("PUT", id, "redact/"+esc(event)+"/"+txn), obj{})
				ask(at("PUT", id, "send/m.room.redaction/"+txn), obj{"redacts": event})
			}
			for i, event := range targets {
				ways(event, string(rune('a'+i)), func(target string, body any) { h.bob.refused(403, "M_FORBIDDEN", target, body) })
				if h.alice.Want(200, at("GET", id, "event/"+esc(event)), nil).Get("unsigned.redacted_because").Exists() {
					t.Fatalf("version %s: %s was redacted by one who may not", version, event)
				}
			}
			h.bob.Want(200, at("PUT", id, "redact/"+esc(mine)+"/own"), obj{})
			for i, event := range targets[1:4] { // not even by the creator
				ways(event, string(rune('k'+i)), func(target string, body any) { h.alice.refused(403, "M_FORBIDDEN", target, body) })
			}
			his := h.bob.say(id, "his again")
			h.alice.Want(200, at("PUT", id, "redact/"+esc(his)+"/level"), obj{})
			h.alice.Want(200, at("PUT", id, "redact/"+esc(theirs)+"/own"), obj{})
		}
	})
}

// TestWhoReadsTheReasonOfARedaction: only who may see the redaction. All others see that the event is redacted.
func TestWhoReadsTheReasonOfARedaction(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, version := range []string{"10", "12"} {
			for _, history := range []string{"world_readable", "shared", "invited", "joined"} {
				id := h.alice.create(
					obj{
						"preset":        "public_chat",
						"room_version":  version,
						"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
					},
				)
				h.bob.join(id)
				h.carol.join(id)
				said := h.alice.say(id, "said")
				h.alice.say(id, "more")
				h.bob.leave(id)
				by := h.alice.Want(200, at("PUT", id, "redact/"+esc(said)+"/1"), obj{"reason": "a secret"}).Get("event_id").String()
				check := func(who *person, when string, told bool) {
					t.Helper()
					if sees := who.Call(at("GET", id, "event/"+esc(by)), nil).Status == 200; sees != told {
						t.Errorf("%s, %s, %s, %s: the redaction is seen: %v", version, history, who.id, when, sees)
					}
					for way, path := range map[string]string{
						"event/" + esc(said): "@this", "context/" + esc(said) + "?limit=0": "event",
						"messages?dir=b&limit=100": `chunk.#(event_id=="` + said + `")`,
						"messages?dir=f&limit=100": `chunk.#(event_id=="` + said + `")`,
					} {
						e := who.Want(200, at("GET", id, way), nil).Get(path)
						because := e.Get("unsigned.redacted_because")
						if because.Get("event_id").String() != by || because.Get("type").String() != "m.room.redaction" ||
							because.Get("redacts").String() != said ||
							because.Get("content.redacts").String() != said {
							t.Errorf("%s, %s, %s, %s, %s: %s", version, history, who.id, when, way, e)
						}
						if is := because.Get("content.reason").Exists(); is != told {
							t.Errorf("%s, %s, %s, %s, %s: the reason is told: %v: %s", version, history, who.id, when, way, is, e)
						}
					}
				}
				check(h.carol, "stayed", true)
				check(h.bob, "left", history == "world_readable")
				h.bob.join(id)
				check(h.bob, "back", history == "world_readable" || history == "shared")
				h.carol.state(id, "m.room.member", h.carol.id, obj{"membership": "join", "displayname": "Carol"})
				check(h.carol, "with another name", true)
			}
		}
	})
}

// TestMembersReadReasonsAtNoCost: nothing is asked about redactions since a reader became a member.
func TestMembersReadReasonsAtNoCost(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(nil)
		said := h.alice.say(id, "said")
		by := h.alice.Want(200, at("PUT", id, "redact/"+esc(said)+"/1"), obj{}).Get("event_id").String()
		found, err := h.Events(t.Context(), []string{by})
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		hidden, err := h.hiddenRedactions(gone, Reader{UserID: h.alice.id, Since: found[by].Pos}, found)
		if err != nil || len(hidden) > 0 {
			t.Error(hidden, err)
		}
		if _, err = h.hiddenRedactions(gone, Reader{UserID: h.alice.id, Since: math.MaxInt64}, found); err == nil {
			t.Error("expected a question to the database, found none")
		}
	})
}
