package role

import (
	"context"
	"errors"
	"slices"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
)

// Job is the right of a process to the work of a Singleton. The work writes only through it, in a transaction
// that compares the epoch, so that a process that was paused and replaced writes nothing when it wakes up.
type Job struct {
	p     *Process
	lease lease.Lease
}

// Job is the right to work under a lease that this process acquired.
func (p *Process) Job(l lease.Lease) *Job { return &Job{p, l} }

// Lease is the lease under which the job is done, for other processes that write for it: see lease.Hold.
func (j *Job) Lease() lease.Lease { return j.lease }

// Tx runs fn in a transaction, or returns lease.ErrLost when another process does the work now. fn may run again after
// a failure.
func (j *Job) Tx(ctx context.Context, fn func(tx *db.Tx) error) error {
	return j.p.DB.Write(ctx, func(b *db.Batch) error {
		j.p.Leases.Advance(b, []lease.Lease{j.lease})
		tx, err := b.Tx()
		if err != nil {
			return err
		}
		return fn(tx)
	})
}

// Exec is Tx for one statement.
func (j *Job) Exec(ctx context.Context, query string, args ...any) error {
	return j.p.DB.Write(ctx, func(b *db.Batch) error {
		j.p.Leases.Advance(b, []lease.Lease{j.lease})
		b.Do(query, args...)
		return nil
	})
}

// Check returns lease.ErrLost when another process does the work now. It is for steps outside Tx that may be done
// twice.
func (j *Job) Check(ctx context.Context) error {
	return j.Tx(ctx, func(*db.Tx) error { return nil })
}

// Singleton adds background work that one process of the fleet does at a time: the one with the lowest machine id among those with the
// newest version. Its lease moves when that process dies, or when it is paused for so long that it seems dead. Then its ctx ends late, and
// the writes of its job fail with lease.ErrLost.
func (p *Process) Singleton(name string, run func(ctx context.Context, j *Job) error) {
	p.jobs = append(p.jobs, name)
	p.Go(name, func(ctx context.Context) error {
		for {
			if err := p.runJob(ctx, "job/"+name, run); err != nil || ctx.Err() != nil {
				return err
			}
			changed := p.Leases.Changed()
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-time.After(time.Second):
			}
		}
	})
}

// HasJob reports whether this version has a singleton of that name. Leases of jobs that only another version has
// stay in the database.
func (p *Process) HasJob(name string) bool { return slices.Contains(p.jobs, name) }

// isPreferredForJobs reports whether this process should run the singletons: it has the lowest id among the live machines with the
// newest version. So an upgrade reaches background work first.
func (p *Process) isPreferredForJobs() bool {
	best, newest := -1, obs.SemVer{}
	for _, m := range p.Leases.Machines() {
		if m.Starting || m.Draining || slices.Contains(m.Roles, NoRole) {
			continue
		}
		v, _ := obs.ParseVersion(m.Version) // none is the oldest
		if best < 0 || v.Compare(newest) > 0 {
			best, newest = m.ID, v
		}
	}
	return best == p.Machine()
}

// runJob acquires the lease of a singleton, if this process is preferred, and runs it until another process is preferred or the lease is
// lost.
func (p *Process) runJob(ctx context.Context, name string, run func(ctx context.Context, j *Job) error) error {
	if !p.isPreferredForJobs() {
		if p.Leases.Mine(name) { // giving it back failed
			return p.Leases.Release(ctx, name)
		}
		return nil
	}
	if !p.Leases.Alive() {
		return nil
	}
	got, err := p.Leases.Acquire(ctx, name)
	if err != nil || len(got) == 0 {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := p.Leases.Release(end, name); err != nil {
			p.Log.Warn("a job's lease was not given back", "job", name, "error", err)
		}
	}()
	work, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // another machine is preferred now, or the lease is gone
		for {
			if !p.isPreferredForJobs() || !p.Leases.Alive() || !p.Leases.Mine(name) {
				stop()
				return
			}
			select {
			case <-work.Done():
				return
			case <-p.Leases.Changed():
			case <-time.After(time.Second):
			}
		}
	}()
	err = run(work, p.Job(got[0]))
	if work.Err() != nil || errors.Is(err, lease.ErrLost) {
		return nil
	}
	return err
}
