package leasetest

import (
	"fmt"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

func onlyMember(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	waitUntilKnown(t, a)
	stop := runLeases(t, a)
	Until(t, "it knows that it is the only one", 3*time.Second, a.IsOnlyMember)
	for round := range 5 {
		if round == 4 { // what it knows is from before: it is too slow to see the other one
			Until(t, "it knows that it is the only one again", 3*time.Second, a.IsOnlyMember)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			Until(t, "a new view", 3*time.Second, func() bool { return a.Refresh(t.Context()) == nil && a.IsOnlyMember() })
		}
		b := member(t, d, lease.Options{Machine: 1})
		for joined := false; !joined; time.Sleep(time.Millisecond) {
			got, err := b.Acquire(t.Context(), fmt.Sprint("x", round))
			if err != nil {
				t.Fatal(err)
			}
			joined = len(got) == 1
			if a.IsOnlyMember() && (joined || b.NoneDegraded()) {
				t.Fatalf("round %d: a process is granted %v and trusts its view %v while another believes to be the only one", round, got,
					b.NoneDegraded())
			}
		}
		if b.IsOnlyMember() {
			t.Error("the second one says that it is the only one")
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// onlyMemberReturns: a process was paused for so long that the others counted it as dead, and one of them may be the only one now.
func onlyMemberReturns(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	waitUntilKnown(t, b)
	paused := time.Now()
	runLeases(t, a)
	Until(t, "the other one counts as dead", 5*time.Second, func() bool { return time.Since(paused) > TTL && a.IsOnlyMember() })
	settled := make(chan error, 1)
	began := time.Now()
	go func() { settled <- b.WaitUntilKnown(t.Context()) }()
	for {
		select {
		case err := <-settled:
			if err != nil || a.IsOnlyMember() {
				t.Errorf("%s after it came back: %v; the other one believes to be the only one: %v", time.Since(began), err, a.IsOnlyMember())
			}
			if err := b.Refresh(t.Context()); err != nil || !b.NoneDegraded() {
				t.Errorf("a view from after that is fresh: %v, %v", b.NoneDegraded(), err)
			}
			return
		case <-time.After(time.Millisecond):
		}
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.NoneDegraded() && a.IsOnlyMember() {
			t.Fatal("the view of one that came back is trusted while another believes to be the only one")
		}
	}
}

// isGranted tells whether a lease is granted by the first call.
func isGranted(t *testing.T, l *lease.Leases, name string) bool {
	t.Helper()
	got, err := l.Acquire(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return len(got) == 1
}

func joinSeveral(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	runLeases(t, a)
	Until(t, "it is the only one", 3*time.Second, a.IsOnlyMember)
	b := member(t, d, lease.Options{Machine: 1})
	runLeases(t, b)
	waitUntilKnown(t, b)
	Until(t, "nobody counts on being the only one", 3*time.Second, func() bool { return countSharing(t, d) == 2 })
	if c := member(t, d, lease.Options{Machine: 2}); !isGranted(t, c, "x") || c.Refresh(t.Context()) != nil || !c.NoneDegraded() {
		t.Error("the third one waits")
	}
	if a.IsOnlyMember() || b.IsOnlyMember() {
		t.Error("one of three is the only one")
	}
}

// countSharing is how many say that they do not count on being the only one.
func countSharing(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM machines WHERE shares = incarnation").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func joinOldVersion(t *testing.T, d *db.DB) {
	member(t, d, lease.Options{Machine: 0})
	for shares, wait := range map[string]bool{"0": true, "incarnation - 1": true, "-incarnation": true, "incarnation": false} {
		if _, err := d.Exec(t.Context(), "UPDATE machines SET shares = "+shares+" WHERE id = 0"); err != nil {
			t.Fatal(err)
		}
		b := member(t, d, lease.Options{Machine: 1})
		if isGranted(t, b, "x") == wait {
			t.Errorf("where the other one says %s: waits: %v", shares, !wait)
		}
		waitUntilKnown(t, b)
		if !isGranted(t, b, "x") {
			t.Error("not granted after the wait")
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func storedClaim(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	if err := a.Refresh(t.Context()); err != nil || a.IsOnlyMember() {
		t.Fatalf("it counts on being the only one before it said so: %v", err)
	}
	b := member(t, d, lease.Options{Machine: 1})
	if !isGranted(t, b, "x") || b.Leave(t.Context()) != nil {
		t.Fatal("who comes to one that did not say so waits")
	}
	runLeases(t, a)
	Until(t, "it is the only one", 3*time.Second, a.IsOnlyMember)
	if n := countSharing(t, d); n != 1 { // that of the one that left
		t.Errorf("%d say that they share, expected one", n)
	}
	// Something else wrote its row.
	if _, err := d.Exec(t.Context(), "UPDATE machines SET shares = incarnation WHERE id = 0"); err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(t.Context()); err != nil || a.IsOnlyMember() {
		t.Errorf("it is the only one while its row says that it shares: %v", err)
	}
	Until(t, "it says so anew", 3*time.Second, a.IsOnlyMember)
}

// claimsExclude: the only member was paused for so long that another process has its id, so its claim is not stored any more.
func claimsExclude(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	stop := runLeases(t, a)
	Until(t, "it is the only one", 3*time.Second, a.IsOnlyMember)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(t.Context()); err != nil || !a.IsOnlyMember() {
		t.Fatalf("its last view: %v, %v", err, a.IsOnlyMember())
	}
	if _, err := d.Exec(t.Context(), "UPDATE machines SET expires_ms = expires_ms - $1", 2*TTL.Milliseconds()); err != nil {
		t.Fatal(err)
	}
	b, c := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	for settled := false; !settled; time.Sleep(time.Millisecond) {
		settled = isGranted(t, b, "x") || isGranted(t, c, "y")
		if a.IsOnlyMember() && (settled || b.NoneDegraded() || c.NoneDegraded()) {
			t.Fatal("one of those who came has a lease or trusts its view while another believes to be the only one")
		}
	}
	waitUntilKnown(t, b)
	runLeases(t, b)
	Until(t, "b says that it shares", 3*time.Second, func() bool { return countSharing(t, d) == 2 })
}

// lateClaim: while the statement that stores a claim is under way, another process joins, so an older view does not count.
func lateClaim(t *testing.T, d *db.DB) {
	if !d.Postgres() {
		t.Skip("writes come one after the other")
	}
	a := member(t, d, lease.Options{Machine: 0})
	stop := runLeases(t, a)
	Until(t, "it is the only one", 3*time.Second, a.IsOnlyMember)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exec(t.Context(), "UPDATE machines SET shares = incarnation"); err != nil { // it says so anew
		t.Fatal(err)
	}
	err := d.Tx(t.Context(), func(tx *db.Tx) error {
		var id int
		if err := tx.QueryRow(t.Context(), "SELECT id FROM machines WHERE id = 0 FOR UPDATE").Scan(&id); err != nil {
			return err
		}
		runLeases(t, a)
		a.Wake()
		waiting := func() (n int) {
			err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = "+
				"'Lock' AND query LIKE '%shares%'").Scan(&n)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		Until(t, "it says that it may be the only one", 3*time.Second, func() bool { return waiting() == 1 })
		if b := member(t, d, lease.Options{Machine: 1}); !isGranted(t, b, "x") {
			t.Error("who joins before it is said waits")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < TTL/2; {
		if a.IsOnlyMember() {
			t.Fatal("it counts on a view from before it said so")
		}
	}
}
