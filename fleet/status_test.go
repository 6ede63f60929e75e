package fleet_test

import (
	"testing"

	"lyceum/fleet"
	"lyceum/ops/opstest"
)

// TestWorkOfAnotherVersionIsNotMissed: the lease of a job that this version does not have is in the database for ever, and
// nobody will ever do it.
func TestWorkOfAnotherVersionIsNotMissed(t *testing.T) {
	c, d, _ := opstest.Server(t, "sqlite", fleet.Migrations()...)
	c.Server.Listen = ""
	for _, name := range []string{"job/directory.index", "job/media.expire"} {
		if _, err := d.Exec(t.Context(), "INSERT INTO leases (name, machine, incarnation, epoch, pos) VALUES ($1, -1, 0, 1, 0)",
			name); err != nil {
			t.Fatal(err)
		}
	}
	p, err := fleet.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	jobs := p.Status(t.Context()).Jobs
	if len(jobs) != 1 || jobs[0].Name != "media.expire" || jobs[0].Machine != -1 {
		t.Errorf("found %+v, expected that nobody does media.expire", jobs)
	}
}
