package leasetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// TTL is the expiry that the tests use: short, yet longer than a pause of the machine under test.
const TTL = time.Second

// Run runs the suite. open gives a fresh database with the tables of package lease.
func Run(t *testing.T, open func(t *testing.T) *db.DB) {
	for _, test := range []struct {
		name string
		body func(t *testing.T, d *db.DB)
	}{
		{"one holder, growing epochs", growingEpochs},
		{"an owner that lost its lease can not advance", fenced},
		{"what was released is free at once", released},
		{"an own lease is granted anew", acquireOwnAgain},
		{"a dead machine's leases are free within the expiry", expiry},
		{"a taken machine id is refused", duplicate},
		{"automatic ids prefer unused ones", autoIDs},
		{"many processes register at once", manyAtOnce},
		{"a takeover waits for the commit under way", takeoverWaits},
		{"a replaced machine stops", replaced},
		{"a view shows who is live, ready, draining and degraded", view},
		{"a machine that was degraded between two views is counted", unseenDegraded},
		{"a heartbeat under way does not undo what is told", stateSetDuringHeartbeat},
		{"alone, all is granted", alone},
		{"who joins takes nothing from one that believes to be the only one", onlyMember},
		{"who joins some that share waits for none", joinSeveral},
		{"who joins one that does not say so waits for it", joinOldVersion},
		{"who counts on being the only one has said so", storedClaim},
		{"who says so late is not the only one by a view from before", lateClaim},
		{"who takes the id of the only one waits, and who comes after it", claimsExclude},
		{"who comes back late is no member before all know it", onlyMemberReturns},
		{"a fleet value is made once", initValue},
		{"a fleet has one first number of its version", versions},
		{"who is not admitted is not registered", admission},
	} {
		t.Run(test.name, func(t *testing.T) { test.body(t, open(t)) })
	}
}

func member(t *testing.T, d *db.DB, o lease.Options) *lease.Leases {
	t.Helper()
	o.TTL = TTL
	l, err := lease.Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// runLeases keeps a member's registration alive until stop or the end of the test.
func runLeases(t *testing.T, l *lease.Leases) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// kill makes the database believe that a machine has not been heard of for long, as when it was paused.
func kill(t *testing.T, d *db.DB, id int) {
	t.Helper()
	if _, err := d.Exec(t.Context(), "UPDATE machines SET expires_ms = 1 WHERE id = $1", id); err != nil {
		t.Fatal(err)
	}
}

func waitUntilKnown(t *testing.T, l *lease.Leases) {
	t.Helper()
	if err := l.WaitUntilKnown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func acquire(t *testing.T, l *lease.Leases, names ...string) []lease.Lease {
	t.Helper()
	waitUntilKnown(t, l)
	got, err := l.Acquire(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b lease.Lease) int { return strings.Compare(a.Name, b.Name) })
	return got
}

func advance(ctx context.Context, d *db.DB, l *lease.Leases, marks ...lease.Lease) error {
	return d.Write(ctx, func(w *db.Batch) error { l.Advance(w, marks); return nil })
}

// Until waits until a condition holds, at most for a time.
func Until(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s until %s", within, what)
		}
	}
}

func growingEpochs(t *testing.T, d *db.DB) {
	var members [3]*lease.Leases
	for i := range members {
		members[i] = member(t, d, lease.Options{Machine: i})
		runLeases(t, members[i])
		waitUntilKnown(t, members[i])
	}
	last := int64(0)
	for round := range 20 {
		var mu sync.Mutex
		var grants []lease.Lease
		var holder *lease.Leases
		var wg sync.WaitGroup
		for _, l := range members {
			wg.Go(func() {
				got, err := l.Acquire(context.Background(), "shard")
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if grants = append(grants, got...); len(got) > 0 {
					holder = l
				}
			})
		}
		wg.Wait()
		if len(grants) != 1 || grants[0].Epoch <= last || grants[0].Pos != int64(round) {
			t.Fatalf("round %d: grants %+v after epoch %d, expected one with a larger epoch at position %d", round, grants, last, round)
		}
		last = grants[0].Epoch
		if err := advance(t.Context(), d, holder, lease.Lease{Name: "shard", Epoch: last, Pos: int64(round) + 1}); err != nil {
			t.Fatal(err)
		}
		if err := holder.Release(t.Context(), "shard"); err != nil {
			t.Fatal(err)
		}
	}
}

func fenced(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	old := acquire(t, a, "x", "y")
	kill(t, d, 0)
	taken := acquire(t, b, "x")
	if len(taken) != 1 || taken[0].Epoch != old[0].Epoch+1 {
		t.Fatalf("taken over: %+v, before: %+v", taken, old)
	}
	old[0].Pos, old[1].Pos = 7, 7
	if err := advance(t.Context(), d, a, old...); !errors.Is(err, lease.ErrLost) {
		t.Errorf("a paused owner advanced: %v", err)
	}
	held, err := b.Read(t.Context(), "")
	if err != nil || held["x"].Pos != 0 || held["y"].Pos != 0 {
		t.Errorf("positions after a refused write: %+v, %v", held, err)
	}
	// What nobody took over is still its own: no one else wrote.
	if err := advance(t.Context(), d, a, old[1]); err != nil {
		t.Errorf("a lease that nobody took: %v", err)
	}
	if err := a.Release(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	taken[0].Pos = 9
	if err := advance(t.Context(), d, b, taken...); err != nil {
		t.Errorf("the new owner after the old one gave the lease back: %v", err)
	}
}

func released(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	runLeases(t, a)
	acquire(t, a, "x")
	if got := acquire(t, b, "x"); len(got) != 0 {
		t.Fatalf("a live owner's lease was granted: %+v", got)
	}
	if err := a.Release(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, b, "x"); len(got) != 1 {
		t.Error("a released lease was not granted")
	}
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, a, "x"); len(got) != 1 {
		t.Error("the lease of a machine that left was not granted")
	}
}

func acquireOwnAgain(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 0})
	first := acquire(t, a, "x")
	again := acquire(t, a, "x")
	if len(again) != 1 || again[0].Epoch <= first[0].Epoch {
		t.Errorf("first %+v, again %+v", first, again)
	}
}

func expiry(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	stop := runLeases(t, a)
	runLeases(t, b)
	acquire(t, a, "x")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	Until(t, "the lease of a dead machine is granted", TTL+2*time.Second, func() bool { return len(acquire(t, b, "x")) == 1 })
	if took := time.Since(died); took < TTL/2 && !d.Postgres() { // its session with PostgreSQL may have ended with it: that is news
		t.Errorf("granted after %s, before the expiry of %s less a heartbeat", took, TTL)
	}
	Until(t, "the view is without the dead machine", 2*time.Second, func() bool { return len(b.Machines()) == 1 })
}

func duplicate(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 5, Host: "first host"})
	_, err := lease.Open(t.Context(), d, lease.Options{Machine: 5, TTL: TTL})
	if !errors.Is(err, lease.ErrHeld) || !strings.Contains(err.Error(), "first host") {
		t.Errorf("error %v, expected one that names the holder", err)
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Open(t.Context(), d, lease.Options{Machine: 5, TTL: TTL}); err != nil {
		t.Errorf("the id of a machine that left: %v", err)
	}
}

func autoIDs(t *testing.T, d *db.DB) {
	auto := func() int { return member(t, d, lease.Options{Machine: -1}).Self().ID }
	if a, b := auto(), auto(); a != 0 || b != 1 {
		t.Errorf("the first ids are %d and %d", a, b)
	}
	kill(t, d, 0)
	if id := auto(); id != 2 {
		t.Errorf("id %d, expected 2: one that was never used", id)
	}
	var rows [][]any
	for id := 3; id <= lease.MaxMachine; id++ {
		rows = append(rows, []any{id, 1, "", "", "", "", false, 0, 5000 - id})
	}
	if err := d.Bulk(t.Context(), "INSERT INTO machines (id, incarnation, address, host, version, roles, draining, started_ms, "+
		"expires_ms) VALUES ?", rows); err != nil {
		t.Fatal(err)
	}
	if id := auto(); id != 0 {
		t.Errorf("id %d, expected 0: the one unused for longest", id)
	}
	if id := auto(); id != lease.MaxMachine {
		t.Errorf("id %d, expected %d: the next unused for longest", id, lease.MaxMachine)
	}
	if _, err := d.Exec(t.Context(), "UPDATE machines SET expires_ms = $1", time.Now().Add(time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Open(t.Context(), d, lease.Options{Machine: -1}); err == nil {
		t.Error("an id was found though all are taken")
	}
}

func manyAtOnce(t *testing.T, d *db.DB) {
	var mu sync.Mutex
	ids := map[int]bool{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			l, err := lease.Open(context.Background(), d, lease.Options{Machine: -1, TTL: time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[l.Self().ID] = true
		})
	}
	wg.Wait()
	if len(ids) != 20 {
		t.Errorf("20 processes have the ids %v", ids)
	}
}

func takeoverWaits(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	waitUntilKnown(t, b)
	mark := acquire(t, a, "x")[0]
	kill(t, d, 0)
	mark.Pos = 3
	granted := make(chan []lease.Lease, 1)
	err := d.Write(t.Context(), func(w *db.Batch) error {
		if _, err := w.Tx(); err != nil {
			return err
		}
		a.Advance(w, []lease.Lease{mark})
		go func() {
			got, err := b.Acquire(context.Background(), "x")
			if err != nil {
				t.Error(err)
			}
			granted <- got
		}()
		select {
		case got := <-granted:
			t.Errorf("granted %+v in the middle of a commit", got)
			granted <- got
		case <-time.After(200 * time.Millisecond):
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-granted; len(got) != 1 || got[0].Pos != 3 || got[0].Epoch != mark.Epoch+1 {
		t.Errorf("granted %+v, expected the position of the commit", got)
	}
}

func replaced(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Machine: 4})
	kill(t, d, 4)
	member(t, d, lease.Options{Machine: 4})
	if err := a.Run(t.Context()); !errors.Is(err, lease.ErrReplaced) {
		t.Errorf("Run returned %v", err)
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := lease.Open(t.Context(), d, lease.Options{Machine: 4}); !errors.Is(err, lease.ErrHeld) {
		t.Errorf("the replaced machine ended the registration of its successor: %v, %v", b, err)
	}
}

func view(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0, Roles: []string{"client"}, Address: "a:1"}),
		member(t, d, lease.Options{Machine: 1, Roles: []string{"all"}})
	runLeases(t, a)
	runLeases(t, b)
	acquire(t, a, "x")
	Until(t, "b sees a's lease", 3*time.Second, func() bool {
		h, ok := b.Holder("x")
		return ok && h.Machine == 0
	})
	m, ok := b.Machine(0)
	if !ok || m.Address != "a:1" || !m.Has("client") || m.Has("sync") || !b.Self().Has("sync") {
		t.Errorf("the view shows %+v", m)
	}
	if m.Takes("client") {
		t.Error("a machine takes work before it is ready")
	}
	if err := a.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	Until(t, "b sees that a is ready", 3*time.Second, func() bool {
		m, _ := b.Machine(0)
		return m.Takes("client") && !m.Takes("sync")
	})
	Until(t, "the view is fresh", 3*time.Second, b.NoneDegraded)
	if err := a.SetDegraded(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(a.ViewTTL())
	<-deadline
	if b.NoneDegraded() {
		t.Error("a view from before a machine became degraded is trusted")
	}
	Until(t, "b counts the degraded machine", 3*time.Second, func() bool { return b.DegradedViews() > 0 })
	Until(t, "a machine does not doubt because of itself", 3*time.Second, a.NoneDegraded)
	before := b.DegradedViews()
	if err := a.SetDegraded(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	Until(t, "the view is fresh again", 3*time.Second, b.NoneDegraded)
	if b.DegradedViews() <= before {
		t.Error("the end of the degraded time was not counted")
	}
	if err := a.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	Until(t, "b sees a drain", 3*time.Second, func() bool {
		m, _ := b.Machine(0)
		return m.Draining && !m.Takes("client")
	})
}

// A view may come so late that a machine became degraded and recovered since the last one.
func unseenDegraded(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	waitUntilKnown(t, b)
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := b.DegradedViews()
	if err := a.SetDegraded(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	Until(t, "no view from before is trusted", 3*time.Second, func() bool { return !b.NoneDegraded() })
	if err := a.SetDegraded(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.NoneDegraded() || b.DegradedViews() == before {
		t.Errorf("fresh %v, counted %d after %d", b.NoneDegraded(), b.DegradedViews(), before)
	}
}

// stateSetDuringHeartbeat marks a machine as degraded and as recovered among as many heartbeats as the database takes.
func stateSetDuringHeartbeat(t *testing.T, d *db.DB) {
	a, b := member(t, d, lease.Options{Machine: 0}), member(t, d, lease.Options{Machine: 1})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = a.Ready(ctx)
			}
		})
	}
	defer wg.Wait()
	defer stop()
	for i := range 200 {
		degraded := i%2 == 0
		if err := a.SetDegraded(t.Context(), degraded); err != nil {
			t.Fatal(err)
		}
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m, _ := b.Machine(0); m.Degraded != degraded {
			t.Fatalf("after it was told that degraded is %v, others read %v", degraded, m.Degraded)
		}
	}
}

func alone(t *testing.T, d *db.DB) {
	a := member(t, d, lease.Options{Embedded: true})
	first := acquire(t, a, "x", "y")
	first[0].Pos = 5
	if err := advance(t.Context(), d, a, first...); err != nil {
		t.Fatal(err)
	}
	b := member(t, d, lease.Options{Embedded: true}) // the next start of the process
	got := acquire(t, b, "x", "y")
	if len(got) != 2 || got[0].Epoch != first[0].Epoch+1 || got[0].Pos != 5 {
		t.Errorf("after a restart: %+v, before: %+v", got, first)
	}
	if err := advance(t.Context(), d, a, first...); !errors.Is(err, lease.ErrLost) {
		t.Errorf("the process from before advanced: %v", err)
	}
	if !b.NoneDegraded() || !b.Alive() {
		t.Error("a process alone has no doubts")
	}
}

func initValue(t *testing.T, d *db.DB) {
	var wg sync.WaitGroup
	var values [8]string
	for i := range values {
		wg.Go(func() {
			v, err := lease.InitValue(context.Background(), d, "key", fmt.Sprint("value", i))
			if err != nil {
				t.Error(err)
			}
			values[i] = v
		})
	}
	wg.Wait()
	for _, v := range values {
		if v == "" || v != values[0] {
			t.Fatalf("values %v", values)
		}
	}
}

func versions(t *testing.T, d *db.DB) {
	first := member(t, d, lease.Options{Machine: -1, Version: "1.4.0"})
	stop := runLeases(t, first)
	if _, err := lease.Open(t.Context(), d, lease.Options{Machine: -1, Version: "2.0.0", TTL: TTL}); !errors.Is(err, lease.ErrVersion) ||
		!strings.Contains(err.Error(), "stop all processes") {
		t.Errorf("another X beside a live process: %v", err)
	}
	member(t, d, lease.Options{Machine: -1, Version: "1.3.9"}) // an older Y may come, as after a rollback
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var next *lease.Leases
	for deadline := time.Now().Add(10 * TTL); ; time.Sleep(TTL / 10) {
		var err error
		if next, err = lease.Open(t.Context(), d, lease.Options{Machine: -1, Version: "2.0.0", TTL: TTL}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := first.Acquire(t.Context(), "late"); !errors.Is(err, lease.ErrVersion) {
		t.Errorf("a lease for a process that woke up in a newer fleet: %v", err)
	}
	if err := first.Run(t.Context()); !errors.Is(err, lease.ErrVersion) {
		t.Errorf("the heartbeat of a process that woke up in a newer fleet: %v", err)
	}
	if err := next.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Open(t.Context(), d, lease.Options{Machine: -1, Version: "1.4.0", TTL: TTL}); !errors.Is(err, lease.ErrVersion) ||
		!strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("back to an older X: %v", err)
	}
}

func admission(t *testing.T, d *db.DB) {
	first := member(t, d, lease.Options{Machine: 4, Host: "a", Metadata: "alpha"})
	refuse := errors.New("not you")
	var seen []lease.Machine
	_, err := lease.Open(t.Context(), d, lease.Options{Machine: 5, TTL: TTL, Accept: func(self lease.Machine, others []lease.Machine) error {
		seen = others
		if self.ID != 5 {
			t.Errorf("this process is %d", self.ID)
		}
		return refuse
	}})
	if !errors.Is(err, refuse) || len(seen) != 1 || seen[0].ID != 4 || seen[0].Metadata != "alpha" {
		t.Errorf("expected a refusal after a look at machine 4, found %v, %v", err, seen)
	}
	if facts, err := first.Metadata(t.Context()); err != nil || len(facts) != 1 || facts[4] != "alpha" {
		t.Errorf("the refused process left a trace: %v, %v", facts, err)
	}
}
