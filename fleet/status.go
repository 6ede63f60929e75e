package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/status"
)

// collector samples this process for the status of the fleet.
func (p *Process) collector() *status.Collector {
	c := &status.Collector{
		Process: p.process, Gatherer: p.obs.Registry, Ready: p.obs.Health.Ready, Ops: p.config.Fleet.Ops, Scratch: p.config.Server.Data,
		Engines: p.engines,
	}
	if p.public != nil {
		c.Public = p.public.Addr().String()
	}
	if p.private != nil {
		c.Internal = p.private.Addr().String()
	}
	return c
}

// engines asks the engines how they are, all at once.
func (p *Process) engines(ctx context.Context) (e status.Engines) {
	var wg sync.WaitGroup
	wg.Go(func() { e.Database = status.ProbeDatabase(ctx, p.db, p.config.databaseURL()) })
	wg.Go(func() { e.Redis = status.ProbeRedis(ctx, p.bus, p.config.Redis) })
	wg.Go(func() { e.Blob = status.ProbeBlob(ctx, p.blobs, p.config.Blob) })
	wg.Wait()
	return e
}

// Status asks all processes and engines how they are.
func (p *Process) Status(ctx context.Context) *status.Fleet {
	f := p.status.Gather(ctx, p.config.Server.Name)
	if text, err := lease.Value(ctx, p.db, rolloutRow); err == nil && text != "" {
		r := &status.Rollout{}
		if json.Unmarshal([]byte(text), r) == nil {
			f.Rollout = r
		}
	}
	return f
}

// rolloutRow is the row of table fleet that tells of the upgrade under way.
const rolloutRow = "rollout"

// WithStatus gives fn a function that asks the whole fleet how it is: through the process that runs over the
// same data directory, or, in a fleet, as a process of its own without roles.
func WithStatus(ctx context.Context, c *Config, fn func(ask func(context.Context) (*status.Fleet, error)) error) error {
	if remote := control(c); remote != nil {
		return fn(func(ctx context.Context) (*status.Fleet, error) {
			f := &status.Fleet{}
			if err := remote.call(ctx, http.MethodGet, "/status", nil, f); err != nil {
				return nil, err
			}
			return f, c.takeName(f.Server)
		})
	}
	if err := c.running(); err != nil {
		return err
	}
	if c.embedded() {
		return fn(func(ctx context.Context) (*status.Fleet, error) { return c.lookStopped(ctx) })
	}
	return asMember(ctx, c, mustExist, func(p *Process) error {
		return fn(func(ctx context.Context) (*status.Fleet, error) {
			if err := p.process.Leases.Refresh(ctx); err != nil {
				return nil, err
			}
			f := p.Status(ctx)
			f.Stopped = len(f.Processes) == 0
			return f, nil
		})
	})
}

// lookStopped asks about a server over SQLite that does not run. It is the process of the data directory only for as long as that takes, so
// that the server can start between two looks; then it is asked.
func (c *Config) lookStopped(ctx context.Context) (f *status.Fleet, err error) {
	for until := time.Now().Add(comeUp); ; {
		if remote := control(c); remote != nil {
			f = &status.Fleet{}
			return f, remote.call(ctx, http.MethodGet, "/status", nil, f)
		}
		f, err = c.readStopped(ctx)
		if !errors.Is(err, errInUse) && !errors.Is(err, errOnly) || ctx.Err() != nil || time.Now().After(until) {
			return f, err
		}
	}
}

// comeUp is how long a command waits for a process that has just begun to start.
const comeUp = 30 * time.Second

func (c *Config) readStopped(ctx context.Context) (f *status.Fleet, err error) {
	err = asMember(ctx, c, mustExist, func(p *Process) error {
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

// asMember gives fn a process like the others, which takes no requests; over PostgreSQL it has no role and
// calls the owners.
func asMember(ctx context.Context, c *Config, m making, fn func(*Process) error) error {
	return withRoles(ctx, c, m, []string{role.NoRole}, fn)
}

// withRoles is asMember with roles, which count where there can be other processes.
func withRoles(ctx context.Context, c *Config, m making, roles []string, fn func(*Process) error) error {
	c.Server.Listen = ""
	c.Obs.LogLevel = "warn"
	c.Fleet.Ops = ""
	if !c.embedded() {
		c.Fleet.Roles, c.Fleet.MachineID = roles, "auto"
	}
	p, err := open(ctx, c, m)
	if err != nil {
		return err
	}
	defer p.close()
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.process.Run(work) }) // what fails shows in fn
	defer wg.Wait()
	defer stop()
	if err := p.waitShards(ctx); err != nil {
		return err
	}
	return fn(p)
}

// surroundings are metrics of what a process stands on.
type surroundings struct{ p *Process }

var (
	connectionsDesc = prometheus.NewDesc("lyceum_database_connections", "Connections of this process to the database, by state (in_use, idle, max).", []string{"state"}, nil)
	clockDesc       = prometheus.NewDesc("lyceum_clock_ahead_seconds", "This process's clock minus the database's.", nil, nil)
	scratchDesc     = prometheus.NewDesc("lyceum_scratch_free_bytes", "Free space in the file system of server.data.", nil, nil)
	poolWaitDesc    = prometheus.NewDesc("lyceum_database_wait_seconds_total", "Time that requests waited for a connection.", nil, nil)
)

// Describe implements prometheus.Collector.
func (surroundings) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- poolWaitDesc
	ch <- clockDesc
	ch <- scratchDesc
}

// Collect implements prometheus.Collector.
func (c surroundings) Collect(ch chan<- prometheus.Metric) {
	s := c.p.db.Stats()
	for state, n := range map[string]int{"in_use": s.InUse, "idle": s.Idle, "max": s.MaxOpenConnections} {
		ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(poolWaitDesc, prometheus.CounterValue, s.WaitDuration.Seconds())
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	ch <- prometheus.MustNewConstMetric(clockDesc, prometheus.GaugeValue, status.ClockAhead(ctx, c.p.db))
	_, free := status.FileSystem(c.p.config.Server.Data)
	ch <- prometheus.MustNewConstMetric(scratchDesc, prometheus.GaugeValue, float64(free))
}
