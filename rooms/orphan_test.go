package rooms

import (
	"context"
	"errors"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// What is built upon an event or a state that is not stored is refused with all of its write.
func TestOrphansAreNotStored(t *testing.T) {
	run(t, func(t *testing.T, p *role.Process, r *Rooms) {
		ctx := context.Background()
		room, err := r.Create(ctx, "@alice:example.org", &Create{Name: "A room", Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Send(ctx, room, message("@alice:example.org", "stored")); err != nil {
			t.Fatal(err)
		}
		list, err := r.query(ctx, p.DB, "e.room_id = $1 ORDER BY e.pos DESC LIMIT 1", room)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d events, %v", len(list), err)
		}
		next := func(id string, pos int64, change func(e *Event)) *stream.Entry {
			pdu := *list[0].Event
			e := &Event{Event: &pdu, Root: list[0].Root, Device: "D"}
			e.ID, e.PrevEvents = id, []string{list[0].ID}
			if change != nil {
				change(e)
			}
			return &stream.Entry{Row: stream.Row{Shard: list[0].Shard, Pos: pos, Key: room, Value: e}}
		}
		write := func(reads bool, entries ...*stream.Entry) error {
			return p.DB.Write(ctx, func(w *db.Batch) error {
				if reads {
					if _, err := w.Tx(); err != nil {
						return err
					}
				}
				return eventStore{}.Insert(ctx, w, entries)
			})
		}
		for _, reads := range []bool{false, true} {
			for what, change := range map[string]func(e *Event){
				"event": func(e *Event) { e.PrevEvents = []string{list[0].ID, "$lost"} },
				"state": func(e *Event) { e.Root = state.IDFrom([]byte("a lost state....")) },
			} {
				if err := write(reads, next("$one", 1001, nil), next("$two", 1002, change)); !errors.Is(err, errOrphan) {
					t.Errorf("an %s that is not stored: %v", what, err)
				}
			}
		}
		err = write(false, next("$one", 1001, nil), next("$two", 1002, func(e *Event) { e.PrevEvents = []string{"$one"} }))
		if err != nil {
			t.Errorf("events that are built upon each other: %v", err)
		}
		var n int
		if err := p.DB.QueryRow(ctx, "SELECT COUNT(*) FROM events WHERE pos > 1000").Scan(&n); err != nil || n != 2 {
			t.Errorf("%d events are stored, %v", n, err)
		}
	})
}
