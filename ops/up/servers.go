package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines"
)

// engine is a PostgreSQL or Redis of package engines.
type engine interface {
	Start(ctx context.Context) error // once, on the same port with the same data
	Stop() error
	Wait() error // returns how the running process ended
	Pid() int    // 0 when it does not run
	Log() string // name of the file
	LastLines() string
}

// server is a server that a Supervisor started; when it ends, it is started again.
type server struct {
	engine
	name    string
	address string

	mu       sync.Mutex
	since    time.Time // of its state
	serves   bool
	restarts int // after it ended by itself
}

// The pauses between attempts to start a server or a child again, and when it is reported that one does not start or answer.
const (
	firstPause         = 200 * time.Millisecond
	maxPause           = 10 * time.Second
	reportFailingAfter = time.Second     // a crashed PostgreSQL refuses to start until the last of its sessions is gone
	reportSlowAfter    = 5 * time.Second // it runs and does not answer
	reportAgainAfter   = time.Minute
)

// startServers starts a private PostgreSQL and Redis where no address is given.
func (u *Supervisor) startServers(ctx context.Context) error {
	c := u.Config
	var watch context.Context
	watch, u.stopKeeping = context.WithCancel(context.Background())
	keep := func(name, address string, e engine) {
		s := &server{engine: e, name: name, address: address, serves: true, since: time.Now()}
		u.servers = append(u.servers, s)
		u.wg.Go(func() { s.keep(watch) })
	}
	if c.Database.URL.Reveal() == "" {
		u.connections = u.connectionsFor(Replicas(&c.Up))
		pg, err := engines.StartPostgres(ctx, filepath.Join(c.Server.Data, "postgres"), fmt.Sprintf("max_connections=%d", u.connections))
		if err != nil {
			return err
		}
		keep("postgres", pg.Addr(), pg)
		c.Database.URL = conf.Secret(pg.URL())
	}
	if len(c.Redis.Addresses) == 0 {
		r, err := engines.StartRedis(ctx, filepath.Join(c.Server.Data, "redis"))
		if err != nil {
			return err
		}
		keep("redis", r.Addr(), r)
		c.Redis.Addresses = []string{r.URL()}
	}
	return nil
}

// The connections of the PostgreSQL of a Supervisor: a slot costs 32 KiB whether it is used or not, measured with PostgreSQL 15.
const (
	leastConnections = 1000
	spareProcesses   = 3 // that connect beside those of the groups: one that replaces another, and commands such as lyceum doctor
)

// connectionsFor is how many connections PostgreSQL must take for these groups, with room to scale them.
func (u *Supervisor) connectionsFor(replicas map[string]int) int {
	n := spareProcesses
	for _, count := range replicas {
		n += count
	}
	return max(n*u.Config.DatabaseConnections(), leastConnections)
}

// checkConnections refuses more processes than PostgreSQL has connections for: then requests, and the commands of the operator,
// would find none.
func (u *Supervisor) checkConnections(ctx context.Context, processes int) error {
	limit, remedy := u.connections, "lower database.connections, or write the processes to up.replicas, and start lyceum up again"
	if limit == 0 && u.Config.Database.URL.Reveal() == "" { // no database yet
		return nil
	}
	if limit == 0 { // the operator's own PostgreSQL
		var err error
		if limit, err = u.connectionLimit(ctx); err != nil {
			return err
		}
		remedy = "raise max_connections of PostgreSQL, or lower database.connections and start lyceum up again"
	}
	each := u.Config.DatabaseConnections()
	if need := (processes + spareProcesses) * each; need > limit {
		return fmt.Errorf("%d processes and %d in reserve with %d connections each need %d connections to PostgreSQL, and it takes %d: %s",
			processes, spareProcesses, each, need, limit, remedy)
	}
	return nil
}

// connectionLimit asks PostgreSQL how many connections it takes from users who are no superusers.
func (u *Supervisor) connectionLimit(ctx context.Context) (n int, err error) {
	d, err := u.Config.OpenDatabase(ctx, db.Options{Readers: 1, Own: true})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	err = d.QueryRow(ctx, `SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int`).Scan(&n)
	return n, err
}

// stopServers stops the servers, the last one first. None is started again after it began.
func (u *Supervisor) stopServers() error {
	var errs []error
	for i := len(u.servers) - 1; i >= 0; i-- {
		errs = append(errs, u.servers[i].Stop())
	}
	return errors.Join(errs...)
}

// keep starts a server again when it ends, for ever and with a growing pause, until ctx ends.
func (s *server) keep(ctx context.Context) {
	for {
		how := s.Wait()
		if ctx.Err() != nil {
			return
		}
		s.setServing(false)
		report("%s ended (%s): starting it again", s.name, howEnded(how))
		if !s.startAgain(ctx) {
			return
		}
	}
}

// startAndReport is Start, and reports the last lines of the server's log when the start takes long, as a recovery does, or a server that
// waits for space on the disk.
func (s *server) startAndReport(ctx context.Context) error {
	done, began := make(chan error, 1), time.Now()
	go func() { done <- s.Start(ctx) }()
	for wait := reportSlowAfter; ; wait = reportAgainAfter {
		select {
		case err := <-done:
			return err
		case <-time.After(wait):
			report("%s runs as process %d and does not answer after %s; it is waited for%s", s.name, s.Pid(), time.Since(began).Round(time.Second),
				s.LastLines())
		}
	}
}

// startAgain returns when the server serves, or false when ctx ended.
func (s *server) startAgain(ctx context.Context) bool {
	began := time.Now()
	var said time.Time
	for pause := retryPause(); ; {
		err := s.startAndReport(ctx)
		if err == nil {
			s.setServing(true)
			report("%s serves again as process %d, after %s", s.name, s.Pid(), time.Since(began).Round(time.Millisecond))
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if time.Since(began) > reportFailingAfter && time.Since(said) > reportAgainAfter {
			said = time.Now()
			report("%s does not start; it is tried until it does: %v", s.name, err)
		}
		if pause.Wait(ctx) != nil {
			return false
		}
	}
}

// retryPause gives the pauses between attempts to start a server or a child again.
func retryPause() backoff.Backoff { return backoff.Backoff{First: firstPause, Max: maxPause} }

func (s *server) setServing(serves bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serves, s.since = serves, time.Now()
	if serves {
		s.restarts++
	}
}

// State tells how a server is: serving, starting or down.
func (s *server) State() ChildState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := ChildState{
		Name: s.name, Group: s.name, PID: s.Pid(), Machine: -1, Version: "-", Address: s.address, State: "serving",
		Since: s.since, Restarts: s.restarts, Log: s.Log(),
	}
	switch {
	case out.PID == 0:
		out.State = "down"
	case !s.serves:
		out.State = "starting"
	}
	return out
}

// Servers are PostgreSQL and Redis as far as up started them.
func (u *Supervisor) Servers() []ChildState {
	var out []ChildState
	for _, s := range u.servers {
		out = append(out, s.State())
	}
	return out
}

// report tells the one who runs lyceum up what happened.
func report(format string, args ...any) {
	fmt.Fprintln(os.Stderr, time.Now().Format(time.DateTime), fmt.Sprintf(format, args...))
}

// howEnded tells how a process ended.
func howEnded(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}
