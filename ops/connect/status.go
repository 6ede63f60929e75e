package connect

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"lyceum/fleet"
	"lyceum/platform/status"
)

// WithStatus gives fn a function that asks the whole fleet how it is: through the process that runs over the
// same data directory, or, in a fleet, as a process of its own without roles.
func WithStatus(ctx context.Context, c *fleet.Config, fn func(ask func(context.Context) (*status.Fleet, error)) error) error {
	if remote := Running(c); remote != nil {
		return fn(func(ctx context.Context) (*status.Fleet, error) {
			f := &status.Fleet{}
			if err := remote.Call(ctx, http.MethodGet, "/status", nil, f); err != nil {
				return nil, err
			}
			return f, c.AdoptName(f.Server)
		})
	}
	if err := RefuseStopped(c); err != nil {
		return err
	}
	if c.Embedded() {
		return fn(func(ctx context.Context) (*status.Fleet, error) { return statusOfStopped(ctx, c) })
	}
	return fleet.AsMember(ctx, c, fleet.MustExist, func(p *fleet.Process) error {
		return fn(func(ctx context.Context) (*status.Fleet, error) {
			f, err := p.CurrentStatus(ctx)
			if err == nil {
				f.Stopped = len(f.Processes) == 0
			}
			return f, err
		})
	})
}

// statusOfStopped asks about a server over SQLite that does not run. It is the process of the data directory only for as long as that
// takes, so that the server can start between two looks; then it is asked.
func statusOfStopped(ctx context.Context, c *fleet.Config) (f *status.Fleet, err error) {
	for until := time.Now().Add(comeUp); ; {
		if remote := Running(c); remote != nil {
			f = &status.Fleet{}
			return f, remote.Call(ctx, http.MethodGet, "/status", nil, f)
		}
		f, err = readStopped(ctx, c)
		if !errors.Is(err, fleet.ErrDataInUse) && !errors.Is(err, fleet.ErrDatabaseInUse) || ctx.Err() != nil || time.Now().After(until) {
			return f, err
		}
	}
}

// comeUp is how long a command waits for a process that has just begun to start.
const comeUp = 30 * time.Second

func readStopped(ctx context.Context, c *fleet.Config) (f *status.Fleet, err error) {
	err = fleet.AsMember(ctx, c, fleet.MustExist, func(p *fleet.Process) error {
		f = p.Status(ctx)
		f.Stopped, f.Processes = true, nil
		for _, st := range slices.Concat(f.Streams, f.Consumers) {
			for i := range st.Shards {
				st.Shards[i].Machine = -1
			}
		}
		for i := range f.Jobs {
			f.Jobs[i].Machine = -1
		}
		return nil
	})
	return f, err
}
