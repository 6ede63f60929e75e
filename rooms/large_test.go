package rooms

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/role"
)

// wall takes so many bytes, and then nothing until it falls.
type wall struct {
	takes   int
	longest int
	reached func()
	falls   chan struct{}
}

func (w *wall) Write(p []byte) (int, error) {
	w.longest = max(w.longest, len(p))
	if w.takes -= len(p); w.takes < 0 && w.reached != nil {
		w.reached()
		w.reached = nil
		<-w.falls
	}
	return len(p), nil
}

// TestWhoWaitsForAClientHoldsLittle of a large state, as web.Pieces charges little for it and many clients may be waited for.
func TestWhoWaitsForAClientHoldsLittle(t *testing.T) {
	const readers, charged = 24, 2 << 20
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		roomID, ids := largeState(t, r)
		live := func() int {
			runtime.GC()
			runtime.GC() // also what pools held
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc) //nolint:gosec // not so large
		}
		if err := r.WriteState(t.Context(), &wall{takes: 1 << 30}, "@alice:"+server, roomID); err != nil { // fills what has bounds of its own
			t.Fatal(err)
		}
		before := live()
		var reached, ended sync.WaitGroup
		falls := make(chan struct{})
		for range readers {
			reached.Add(1)
			w := &wall{1 << 20, 0, sync.OnceFunc(reached.Done), falls}
			ended.Go(func() {
				defer w.stop()
				if err := r.WriteState(t.Context(), w, "@alice:"+server, roomID); err != nil {
					t.Error(err)
				}
				if w.longest > arrayBytes+1<<17 {
					t.Errorf("%d bytes were written at once", w.longest)
				}
			})
		}
		reached.Wait()
		held := live() - before
		close(falls)
		ended.Wait()
		t.Logf("%d readers held %d KiB each", readers, held>>10/readers)
		if held > readers*charged {
			t.Errorf("%d readers that do not read held %d KiB each, expected %d at most", readers, held>>10/readers, charged>>10)
		}
		testParts(t, r, ids)
	})
}

// stop tells that the wall is not reached any more.
func (w *wall) stop() {
	if w.reached != nil {
		w.reached()
	}
}

// largeState makes a room with 7 MB of state, and gives the ids of the events, large ones beside small ones.
func largeState(t *testing.T, r *Rooms) (roomID string, ids []string) {
	t.Helper()
	roomID, err := r.Create(t.Context(), "@alice:"+server, &Create{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 60_000)
	for n := range 240 {
		text := "short"
		if n%2 == 0 {
			text = long
		}
		key := fmt.Sprint(n)
		s := Send{
			Sender:   "@alice:" + server,
			Device:   "D",
			Txn:      key,
			Type:     "m.test",
			StateKey: &key,
			Content:  encodeJSON(map[string]string{"x": text}),
		}
		id, err := r.Send(t.Context(), roomID, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return roomID, ids
}

// testParts: EachEvent gives all in order, whatever order that is, and little at once.
func testParts(t *testing.T, r *Rooms, ids []string) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(ids))
	for name, asked := range map[string][]string{
		"as sent": ids, "sorted": sorted, "with others": append([]string{"$none"}, append(slices.Clone(sorted), "$zzz", "$zzzz")...), "none": nil,
	} {
		var got []string
		err := r.EachEvent(context.Background(), asked, func(events []*Event) error {
			size := 0
			for _, e := range events {
				got = append(got, e.ID)
				size += e.size()
			}
			if size > partBytes+1<<17 || len(events) == 0 {
				t.Errorf("%s: %d events of %d bytes came at once", name, len(events), size)
			}
			return nil
		})
		want := slices.DeleteFunc(slices.Clone(asked), func(id string) bool { return !slices.Contains(ids, id) })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d of %d events came, or in another order: %v", name, len(got), len(want), err)
		}
	}
}
