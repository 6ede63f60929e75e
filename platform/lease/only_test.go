package lease

import (
	"context"
	"net/url"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

func openLeases(t *testing.T, d *db.DB, id int) *Leases {
	t.Helper()
	l, err := Open(t.Context(), d, Options{Machine: id, TTL: time.Second})
	must(t, err)
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runLeases runs the leases until stop or the end of the test.
func runLeases(t *testing.T, l *Leases) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

// A heartbeat that was given up arrives behind those that came after it.
func TestALateHeartbeatChangesNothing(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), Migrations())
	l := openLeases(t, d, 0)
	row := func() (expires int64, mute bool) {
		must(t, d.QueryRow(t.Context(), "SELECT expires_ms, mute FROM machines WHERE id = 0").Scan(&expires, &mute))
		return expires, mute
	}
	must(t, l.SetDegraded(t.Context(), false))
	must(t, l.SetDegraded(t.Context(), true))
	expires, _ := row()
	time.Sleep(2 * time.Millisecond) // the times that are compared are of ms
	l.heartbeats -= 2                // the next one is sent as one of before
	l.self.Degraded = false
	must(t, l.heartbeat(t.Context()))
	if now, mute := row(); !mute || now != expires {
		t.Errorf("a late one changed the time by %d ms, mute: %v", now-expires, mute)
	}
	must(t, l.heartbeat(t.Context()))
	must(t, l.heartbeat(t.Context()))
	if now, mute := row(); mute || now == expires {
		t.Error("a later one changed nothing")
	}
	must(t, l.Leave(t.Context()))
	must(t, l.heartbeat(t.Context()))
	if expires, _ := row(); expires != 0 {
		t.Error("a heartbeat after the end registers again")
	}
}

// withMovableClock is a database whose clock a test sets.
func withMovableClock(t *testing.T) (d *db.DB, jump func(by string)) {
	server := enginestest.TestPostgres(t)
	plain := dbtest.Open(t, server, Migrations())
	for _, statement := range []string{
		"CREATE TABLE clock (by INTERVAL)", "INSERT INTO clock VALUES ('0')",
		"CREATE FUNCTION clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM " +
			"public.clock)'",
	} {
		_, err := plain.Exec(t.Context(), statement)
		must(t, err)
	}
	u, err := url.Parse(server)
	must(t, err)
	q := u.Query()
	q.Set("search_path", "public,pg_catalog")
	u.RawQuery = q.Encode()
	return dbtest.Open(t, u.String()), func(by string) {
		_, err := plain.Exec(t.Context(), "UPDATE clock SET by = CAST($1 AS TEXT)::interval", by)
		must(t, err)
	}
}

// The clock jumps when one is the only one and before another one joins.
func TestAProcessJoinsAfterTheClockJumped(t *testing.T) {
	for _, by := range []string{"1 hour", "-1 hour", "2 days", "-2 days"} {
		t.Run(by, func(t *testing.T) {
			d, jump := withMovableClock(t)
			a := openLeases(t, d, 0)
			stop := runLeases(t, a)
			eventually(t, "it is the only one", 5*time.Second, a.IsOnlyMember)
			if got, err := a.Acquire(t.Context(), "x"); err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			eventually(t, "it has a session", 3*time.Second, func() bool { return hasSession(d, a) })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go a.keepSession(ctx) // it stands still, its session does not end
			key := func() (key int64) {
				must(t, d.QueryRow(t.Context(), "SELECT lock_key FROM machines WHERE id = 0").Scan(&key))
				return key
			}
			before := key()
			eventually(t, "it has another session", 3*time.Second, func() bool { return key() != before })
			stop()
			must(t, a.heartbeat(t.Context()))
			must(t, a.Refresh(t.Context()))
			if !a.IsOnlyMember() {
				t.Fatal("it is no longer the only one")
			}
			jump(by)
			b := openLeases(t, d, 1)
			for began := time.Now(); time.Since(began) < a.claimViewTTL()+100*time.Millisecond; time.Sleep(time.Millisecond) {
				got, err := b.Acquire(t.Context(), "x")
				must(t, err)
				must(t, b.Refresh(t.Context()))
				if fresh := b.NoneDegraded(); a.IsOnlyMember() && (len(got) > 0 || fresh) {
					t.Fatalf("one is the only one, the other one is granted %v and trusts its view: %v", got, fresh)
				}
			}
		})
	}
}

// The clock goes back and forth between two views, and one heartbeat is of that time.
func TestTheClockGoesBackAndForth(t *testing.T) {
	d, jump := withMovableClock(t)
	a, b := openLeases(t, d, 0), openLeases(t, d, 1)
	must(t, b.WaitUntilKnown(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go b.keepSession(ctx)
	eventually(t, "it has a session", 3*time.Second, func() bool { return hasSession(d, b) })
	// a first view says nothing for a TTL
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
		for _, l := range []*Leases{a, b} {
			must(t, l.heartbeat(t.Context()))
			must(t, l.Refresh(t.Context()))
		}
	}
	jump("-1 hour")
	must(t, b.heartbeat(t.Context()))
	jump("0")
	must(t, a.Refresh(t.Context()))
	must(t, a.storeClaim(t.Context()))
	must(t, b.Refresh(t.Context()))
	if a.IsOnlyMember() && b.NoneDegraded() {
		t.Error("one is the only one while the other one, which is alive, trusts its view")
	}
}

// One that was not heard of for a day becomes the only one while another one is about to register.
func TestOneComesBackWhileAnotherOneRegisters(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), Migrations())
	a := openLeases(t, d, 0)
	openLeases(t, d, 1)
	_, err := d.Exec(t.Context(), "UPDATE machines SET expires_ms = expires_ms - $1", 2*recentlySeen.Milliseconds())
	must(t, err)
	a.mu.Lock()
	a.heartbeatAt = a.heartbeatAt.Add(-time.Hour)
	a.mu.Unlock()
	registered := make(chan *Leases, 1)
	err = d.Tx(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(t.Context(), "SELECT 1 FROM machines WHERE id = 1 FOR UPDATE"); err != nil {
			return err
		}
		go func() {
			b, err := Open(context.Background(), d, Options{Machine: 1, TTL: time.Second})
			if err != nil {
				t.Error(err)
			}
			registered <- b
		}()
		eventually(t, "it waits for the row", 3*time.Second, func() bool {
			var n int
			must(t, d.QueryRow(t.Context(),
				"SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n))
			return n == 1
		})
		runLeases(t, a)
		must(t, a.WaitUntilKnown(t.Context()))
		eventually(t, "it is the only one", 5*time.Second, a.IsOnlyMember)
		return nil
	})
	must(t, err)
	b := <-registered
	got, err := b.Acquire(t.Context(), "x")
	must(t, err)
	if fresh := b.NoneDegraded(); a.IsOnlyMember() && (fresh || len(got) > 0) {
		t.Errorf("one is the only one, the other one is granted %v and trusts its view: %v", got, fresh)
	}
}

// One stands still while it takes leases, for so long that the other one becomes the only one.
func TestAPausedProcessIsGrantedNothing(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), Migrations())
	a, b := openLeases(t, d, 0), openLeases(t, d, 1)
	must(t, a.WaitUntilKnown(t.Context()))
	must(t, b.WaitUntilKnown(t.Context()))
	a.SetRequired("x")
	if got, err := a.Acquire(t.Context(), "x"); err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	granted := make(chan []Lease, 1)
	err := d.Tx(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(t.Context(), "LOCK TABLE leases IN SHARE MODE"); err != nil {
			return err
		}
		go func() {
			got, err := b.Acquire(context.Background(), "x")
			if err != nil {
				t.Error(err)
			}
			granted <- got
		}()
		runLeases(t, a)
		eventually(t, "it is the only one", 8*time.Second, a.IsOnlyMember)
		// its session is gone for a moment
		_, err := d.Exec(t.Context(), "UPDATE machines SET lock_key = 1, lock_run = CAST(pg_postmaster_start_time() AS TEXT) WHERE id = 0")
		return err
	})
	must(t, err)
	if got := <-granted; len(got) > 0 {
		t.Errorf("one that is not alive (%v) is granted %v", b.Alive(), got)
	}
	must(t, a.Refresh(t.Context()))
	if a.IsOnlyMember() {
		t.Error("one whose lease another one has is the only one")
	}
}
