package rooms

import (
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
