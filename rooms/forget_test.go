package rooms

import (
	"fmt"
	"sync"
	"testing"

	"lyceum/platform/role"
)

// The owner of a room forgets what it looked up of a large state while changes of it are on their way to the database.
func TestALargeStateIsForgottenWhileItIsWritten(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		r.CachedState = 20
		const alice = "@alice:" + server
		room, err := r.Create(t.Context(), alice, &Create{Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for w := range 16 {
			all.Go(func() {
				for i := range 20 {
					key := fmt.Sprint(w, "/", i)
					if _, err := r.Send(t.Context(), room, Send{
						Sender: alice, Type: "org.example.x", StateKey: &key,
						Content: encodeJSON(obj{"n": i}),
					}); err != nil {
						t.Errorf("%s: %v", key, err)
					}
				}
			})
		}
		all.Wait()
		h, _, err := r.Head(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		events, err := r.FullState(t.Context(), h.Root)
		n := 0
		for _, e := range events {
			if e.Type == "org.example.x" {
				n++
			}
		}
		if err != nil || n != 16*20 {
			t.Errorf("%d of %d are in the state, %v", n, 16*20, err)
		}
	})
}
