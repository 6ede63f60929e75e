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

// unstarted are the streams of a process that does not run.
func unstarted(t *testing.T) (*db.DB, *Streams) {
	t.Helper()
	d := dbtest.Open(t, "sqlite:"+t.TempDir()+"/test.db", lease.Migrations(), lines)
	l, err := lease.Open(context.Background(), d, lease.Options{Machine: -1, Roles: []string{"all"}})
	if err != nil {
		t.Fatal(err)
	}
	return d, New(Options{DB: d, Bus: bus.NewLocal(), Leases: l, Log: quiet})
}

// Rows behind those whose telling was cut short by the end are not taken for told either: others may still use what they saw before.
func TestATellingThatWasCutShort(t *testing.T) {
	d, s := unstarted(t)
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

// A process whose word that it speaks again has no answer tells the fleet anew before it relies upon being mute.
func TestATellingAfterADoubtfulOne(t *testing.T) {
	d, s := unstarted(t)
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
