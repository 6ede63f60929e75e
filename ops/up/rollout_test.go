package up

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/platform/conf"
	"lyceum/platform/obs"
)

// TestARolloutWaitsForTheDatabase: one that recovers has some time for it, and then it is said what to do.
func TestARolloutWaitsForTheDatabase(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := fleet.Load(conf.Sources{Environ: []string{
		"LYCEUM_SERVER_DATA=" + dir, "LYCEUM_FLEET_SECRET=a secret of sixteen", fmt.Sprintf("LYCEUM_DATABASE_URL=postgres://127.0.0.1:%d/x",
			port),
	}})
	if err != nil {
		t.Fatal(err)
	}
	u := &Supervisor{Config: c}
	end, err := u.Supervise(func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	s, err := FindSupervisor(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &Rollout{Supervisor: s, Out: &out, settle: 700 * time.Millisecond}
	began := time.Now()
	err = r.Run(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "nothing was changed: try again") || time.Since(began) < r.settle {
		t.Errorf("found %v after %s", err, time.Since(began))
	}
	if out.String() != "waiting for the database, which does not answer\n" {
		t.Errorf("it said %q", out.String())
	}
	end()
	if err := r.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), errStopped.Error()) {
		t.Errorf("without lyceum up: %v", err)
	}
}

// TestOwnersAreUpgradedFirst, and are the last that go back.
func TestOwnersAreUpgradedFirst(t *testing.T) {
	groups := []string{"router+client+media", "events", "sync+push", "receipts+typing", "events"}
	for to, want := range map[string]string{
		"0.2.0": "events 1, receipts+typing 3, events 4, sync+push 2, router+client+media 0",
		"0.1.0": "events 1, receipts+typing 3, events 4, sync+push 2, router+client+media 0",
		"0.0.9": "router+client+media 0, sync+push 2, events 1, receipts+typing 3, events 4",
	} {
		var children []ChildState
		for machine, group := range groups {
			children = append(children, ChildState{Group: group, Machine: machine})
		}
		v, err := obs.ParseVersion(to)
		if err != nil {
			t.Fatal(err)
		}
		sortForUpgrade(children, "0.1.0", v)
		var got []string
		for _, c := range children {
			got = append(got, fmt.Sprint(c.Group, " ", c.Machine))
		}
		if found := strings.Join(got, ", "); found != want {
			t.Errorf("to %s: expected %s, found %s", to, want, found)
		}
	}
}
