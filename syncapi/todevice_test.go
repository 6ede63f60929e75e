package syncapi

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"lyceum/accounts"
)

// heapPeak follows the live heap, in bytes, until stop is called.
func heapPeak() (stop func() uint64) {
	end, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-end:
				peak <- most
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(end); return <-peak }
}

// TestLargeDeliveriesHoldNobodyUp: requests of 15 MiB to 75 devices of a user are answered, take memory by their size
// and not by the number of devices, and what others send at the same time is stored soon.
func TestLargeDeliveriesHoldNobodyUp(t *testing.T) {
	const devices, soon, memory = 75, 2 * time.Second, 400 << 20
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		each := obj{}
		for _, name := range []string{"bob", "carol", "dave"} {
			if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name}); err != nil {
				t.Fatal(err)
			}
			of := obj{}
			for i := range devices {
				device := fmt.Sprintf("DEV%03d", i)
				if _, err := h.Accounts.CreateDevice(t.Context(), id(name), device, ""); err != nil {
					t.Fatal(err)
				}
				of[device] = obj{"d": device, "x": strings.Repeat("x", 65_000)}
			}
			each[id(name)] = of
		}
		room := h.room(t, "alice", "bob")
		stop := heapPeak()
		done := make(chan struct{})
		go func() { // more at once would be told to wait
			defer close(done)
			large := func(status int, target string, messages obj) {
				h.http.As("dave").Want(status, "PUT "+api+"/sendToDevice/"+target, obj{"messages": messages})
			}
			large(413, "m.all/1", obj{id("bob"): obj{"*": obj{"x": strings.Repeat("x", 15<<20)}}})
			large(200, "m.all/2", obj{id("bob"): obj{"*": obj{"x": strings.Repeat("x", 65_000)}}})
			large(200, "m.each/3", each)
			large(200, "m.each/4", each)
		}()
		longest := time.Duration(0)
		for n, over := 0, false; !over; n++ {
			begun := time.Now()
			bob.say(room, "meanwhile")
			alice.Want(200, fmt.Sprintf("PUT %s/sendToDevice/m.small/%d", api, n), obj{"messages": obj{id("carol"): obj{"DEV000": obj{}}}})
			longest = max(longest, time.Since(begun))
			select {
			case <-done:
				over = true
			default:
			}
		}
		peak := stop()
		t.Logf("the heap took %d MiB, the longest wait was %v", peak>>20, longest)
		if longest > soon {
			t.Errorf("others waited for %v, expected less than %v", longest, soon)
		}
		if peak > memory {
			t.Errorf("the heap took %d MiB, expected at most %d", peak>>20, memory>>20)
		}
		// One of each request came to a device, and all of them are there.
		var found int
		if err := h.Process.DB.QueryRow(t.Context(), `SELECT COUNT(*) FROM to_device WHERE type <> 'm.small'`).Scan(&found); err != nil {
			t.Fatal(err)
		}
		same(t, "messages", found, devices*(1+3+3))
	})
}
