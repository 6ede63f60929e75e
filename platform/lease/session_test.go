package lease

import (
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

// openMember is a process that runs its leases over connections of its own until kill, which says nothing to anybody.
func openMember(t *testing.T, url string, absence time.Duration) (l *Leases, kill func()) {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if l, err = Open(t.Context(), d, Options{
		Machine: -1, Roles: []string{"all"}, Address: "here:" + enginestest.Unique(),
		Absence: absence,
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	var once sync.Once
	kill = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			_ = d.Close()
		})
	}
	t.Cleanup(kill)
	return l, kill
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func hasSession(d *db.DB, l *Leases) bool {
	var there bool
	err := d.QueryRow(context.Background(), "SELECT lock_run <> '' AND "+sessionExistsSQL+" FROM machines WHERE id = $1",
		l.Self().ID).Scan(&there)
	return err == nil && there
}

func TestTheLeasesOfAKilledProcessAreFreeAtOnce(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, Migrations())
	two, kill := openMember(t, url, 5*time.Second)
	one, _ := openMember(t, url, 5*time.Second)
	if got, err := two.Acquire(t.Context(), "x"); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	eventually(t, "the sessions", 5*time.Second, func() bool { return hasSession(d, one) && hasSession(d, two) })
	if err := one.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, held := one.Holder("x"); !held {
		t.Fatal("the lease of a living process is not seen")
	}
	if err := one.WaitUntilKnown(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill()
	one.Suspect(two.Self().Address)
	free := eventually(t, "the lease of a killed process is free", 2*time.Second, func() bool { _, held := one.Holder("x"); return !held })
	got, err := one.Acquire(t.Context(), "x")
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	t.Logf("free after %v (a heartbeat expires after %v)", free, one.opts.TTL)
}

// Whoever talks to a process may see its connections end before PostgreSQL has ended its session.
func TestASuspectedProcessIsLookedAtUntilItsSessionEnds(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, Migrations())
	two, kill := openMember(t, url, time.Minute)
	one, _ := openMember(t, url, time.Minute)
	if got, err := two.Acquire(t.Context(), "x"); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	eventually(t, "the sessions", 5*time.Second, func() bool { return hasSession(d, one) && hasSession(d, two) })
	if err := one.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	one.Suspect(two.Self().Address)
	time.Sleep(100 * time.Millisecond) // a first look is over
	if _, held := one.Holder("x"); !held {
		t.Fatal("a suspicion alone ends a living process's lease")
	}
	kill()
	eventually(t, "the lease of a killed process is free", 2*time.Second, func() bool { _, held := one.Holder("x"); return !held })
}

// The session may break while the process lives: it is taken again before anybody acts on it.
func TestALivingProcessTakesItsSessionAgain(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, Migrations())
	two, _ := openMember(t, url, 5*time.Second)
	one, _ := openMember(t, url, 5*time.Second)
	eventually(t, "the sessions", 5*time.Second, func() bool { return hasSession(d, one) && hasSession(d, two) })
	if _, err := two.Acquire(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := one.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		// Only the session itself, not the pool.
		if _, err := d.Exec(t.Context(), `SELECT pg_terminate_backend(p.pid) FROM pg_locks p, machines m WHERE p.locktype = 'advisory'
				AND p.objsubid = 1
			AND (CAST(p.classid AS BIGINT) << 32 | CAST(p.objid AS BIGINT)) = m.lock_key AND m.id = $1`, two.Self().ID); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(300 * time.Millisecond)
		for time.Now().Before(until) {
			one.Wake()
			if _, held := one.Holder("x"); !held {
				t.Fatal("a living process counts as dead")
			}
			time.Sleep(5 * time.Millisecond)
		}
		eventually(t, "the session is there again", 5*time.Second, func() bool { return hasSession(d, two) })
	}
}

// When the database's clock jumps, the registrations of the living look expired until their next heartbeat.
func TestThereIsNoOnlyMemberAfterAJumpOfTheClock(t *testing.T) {
	url := enginestest.TestPostgres(t)
	dbtest.Open(t, url, Migrations())
	one, _ := openMember(t, url, time.Second)
	eventually(t, "it is the only one", 5*time.Second, one.IsOnlyMember)
	one.mu.Lock()
	one.dbClock -= 10_000
	one.mu.Unlock()
	if err := one.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < one.opts.TTL-50*time.Millisecond; time.Sleep(time.Millisecond) {
		if one.IsOnlyMember() {
			t.Fatal("the other processes may not have had the time to say that they live")
		}
	}
	eventually(t, "it is the only one again", 5*time.Second, one.IsOnlyMember)
}

// What a session that broke wrote and arrives late does not take the place of what the session behind it wrote: others would take a
// process that lives for dead, for as long as it lives.
func TestALateNoteOfASessionDoesNotHideAProcess(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, Migrations())
	one, _ := openMember(t, url, 0)
	proxy, err := dbfault.NewProxy(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	proxy.Also(regexp.MustCompile(`SET lock_key`))
	proxy.Shut()
	two, _ := openMember(t, proxy.URL(), 0)
	eventually(t, "the note is on its way", 10*time.Second, func() bool { return len(proxy.Held()) == 1 })
	proxy.Held()[0].Decide(dbfault.Late) // its connection breaks, and it arrives a moment later
	proxy.Open()
	eventually(t, "the session behind it is noted", 10*time.Second, func() bool { return hasSession(d, two) })
	time.Sleep(time.Second) // the late one has come by then
	eventually(t, "the others see it", 10*time.Second, func() bool {
		_, seen := one.Machine(two.Self().ID)
		return seen && hasSession(d, two)
	})
}
