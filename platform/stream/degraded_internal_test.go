package stream

import (
	"context"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
)

// notStarted makes the streams of a process that does not run.
func notStarted(t *testing.T) (*db.DB, *Streams) {
	t.Helper()
	d := dbtest.Open(t, "sqlite:"+t.TempDir()+"/test.db", lease.Migrations(), lines)
	l, err := lease.Open(context.Background(), d, lease.Options{Machine: -1, Roles: []string{"all"}})
	if err != nil {
		t.Fatal(err)
	}
	return d, New(Options{DB: d, Bus: bus.NewLocal(), Leases: l, Log: quiet})
}

// When the end interrupts markDegraded, later rows do not count as announced either: others may still use an old view.
func TestMarkDegradedThatIsInterruptedIsNotTold(t *testing.T) {
	d, s := notStarted(t)
	first, second := make(chan bool), make(chan bool)
	go func() { first <- s.markDegraded(s.ctx) }()
	for mute := 0; mute == 0; time.Sleep(time.Millisecond) { // then it waits until no view from before is trusted
		if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM machines WHERE mute").Scan(&mute); err != nil {
			t.Fatal(err)
		}
	}
	go func() { second <- s.markDegraded(s.ctx) }()
	s.cancel()
	if <-first || <-second {
		t.Error("the fleet is said to be told, before views from before are out of use")
	}
}

// When the answer to a recovery is lost, the process marks itself degraded again before it relies on being so.
func TestMarkDegradedAfterADoubtfulRecovery(t *testing.T) {
	d, s := notStarted(t)
	if !s.markDegraded(t.Context()) {
		t.Fatal("not told")
	}
	// The answer is lost, and what was written is there.
	for _, q := range []string{
		"ALTER TABLE machines RENAME TO away", "", "ALTER TABLE away RENAME TO machines",
		"UPDATE machines SET mute = FALSE",
	} {
		if q == "" {
			s.markRecovered(t.Context())
		} else if _, err := d.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if !s.markDegraded(t.Context()) {
		t.Fatal("not told")
	}
	var mute bool
	if err := d.QueryRow(t.Context(), "SELECT mute FROM machines").Scan(&mute); err != nil || !mute {
		t.Errorf("mute: %v, %v", mute, err)
	}
}
