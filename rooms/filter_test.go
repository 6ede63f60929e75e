package rooms

import (
	"fmt"
	"testing"
)

// TestMessagesFilterByRelation holds MSC3874, filters by the relation of an event itself, and those by relations to an event.
func TestMessagesFilterByRelation(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(nil)
		h.alice.say(id, "plain")
		root := h.alice.say(id, "root")
		h.alice.send(id, "m.room.message", obj{"body": "reply", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
		h.alice.send(id, "m.room.message", obj{"body": "note", "m.relates_to": obj{"rel_type": "m.reference", "event_id": root}})
		for filter, want := range map[string]string{
			`"org.matrix.msc3874.rel_types":["m.thread"]`:                   "[reply]",
			`"org.matrix.msc3874.rel_types":["m.thread","m.reference"]`:     "[note reply]",
			`"org.matrix.msc3874.rel_types":[]`:                             "[]",
			`"org.matrix.msc3874.not_rel_types":["m.thread"]`:               "[note root plain]",
			`"org.matrix.msc3874.not_rel_types":["m.thread","m.reference"]`: "[root plain]",
			`"related_by_rel_types":["m.thread"]`:                           "[root]",
			`"related_by_senders":["@alice:example.org"]`:                   "[root]",
			`"related_by_senders":["@bob:example.org"]`:                     "[]",
		} {
			filter = `{"types":["m.room.message"],` + filter + "}"
			var found []string
			for _, e := range h.alice.Want(200, at("GET", id, "messages?dir=b&filter="+esc(filter)), nil).Get("chunk").Array() {
				found = append(found, e.Get("content.body").String())
			}
			if got := fmt.Sprint(found); got != want {
				t.Errorf("%s: found %s, expected %s", filter, got, want)
			}
		}
	})
}
