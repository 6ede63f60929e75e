package fleet

import "testing"

// TestWorkOfAnotherVersionIsNotMissed: the lease of a job that this version does not have is in the database for ever, and
// nobody will ever do it.
func TestWorkOfAnotherVersionIsNotMissed(t *testing.T) {
	c, d, _ := siteOver(t, "sqlite", migrations()...)
	c.Server.Listen = ""
	for _, name := range []string{"job/directory.index", "job/media.expire"} {
		if _, err := d.Exec(t.Context(), "INSERT INTO leases (name, machine, incarnation, epoch, pos) VALUES ($1, -1, 0, 1, 0)", name); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	jobs := p.Status(t.Context()).Jobs
	if len(jobs) != 1 || jobs[0].Name != "media.expire" || jobs[0].Machine != -1 {
		t.Errorf("found %+v, expected that nobody does media.expire", jobs)
	}
}
