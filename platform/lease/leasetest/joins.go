package leasetest

import (
	"fmt"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

func onlyOne(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	settle(t, a)
	stop := live(t, a)
	until(t, "it knows that it is the only one", 3*time.Second, a.Only)
	for round := range 5 {
		if round == 4 { // what it knows is from before: it is too slow to see the other one
			until(t, "it knows that it is the only one again", 3*time.Second, a.Only)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			until(t, "a new view", 3*time.Second, func() bool { return a.Refresh(t.Context()) == nil && a.Only() })
		}
		b := member(t, d, lease.Options{Machine: 1})
		for joined := false; !joined; time.Sleep(time.Millisecond) {
			got, err := b.Acquire(t.Context(), fmt.Sprint("x", round))
			if err != nil {
				t.Fatal(err)
			}
			joined = len(got) == 1
			if a.Only() && (joined || b.Fresh()) {
				t.Fatalf("round %d: a process is granted %v and trusts its view %v while another believes to be the only one", round, got, b.Fresh())
			}
		}
		if b.Only() {
			t.Error("the second one says that it is the only one")
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// comesBack: a process was paused for so long that the others counted it as dead, and one of them may be the only one now.
func comesBack(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	settle(t, b)
	paused := time.Now()
	live(t, a)
	until(t, "the other one counts as dead", 5*time.Second, func() bool { return time.Since(paused) > TTL && a.Only() })
	settled := make(chan error, 1)
	began := time.Now()
	go func() { settled <- b.Settle(t.Context()) }()
	for {
		select {
		case err := <-settled:
			if err != nil || a.Only() {
				t.Errorf("%s after it came back: %v; the other one believes to be the only one: %v", time.Since(began), err, a.Only())
			}
			if err := b.Refresh(t.Context()); err != nil || !b.Fresh() {
				t.Errorf("a view from after that is fresh: %v, %v", b.Fresh(), err)
			}
			return
		case <-time.After(time.Millisecond):
		}
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.Fresh() && a.Only() {
			t.Fatal("the view of one that came back is trusted while another believes to be the only one")
		}
	}
}
