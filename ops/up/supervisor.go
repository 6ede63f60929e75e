package up

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lyceum/fleet"
	"lyceum/platform/role"
)

// Supervisor keeps a fleet of processes running on this machine. It is started and stopped once.
type Supervisor struct {
	Program string        // the lyceum binary
	Config  *fleet.Config // of all processes
	File    string        // configuration file that the processes read too; "" for none
	Environ []string      // more variables for all processes, over all else

	Unnamed bool // set by Start: neither the configuration nor the database had a name for the server

	Flags map[string]string // "section.key" to value: over the environment of this process, for all processes

	servers     []*server          // PostgreSQL and Redis, where Start started them
	connections int                // max_connections of the PostgreSQL that Start started; 0 for none
	stopKeeping context.CancelFunc // ends the goroutines that start PostgreSQL and Redis again when they end
	public      *os.File           // socket of the public address, shared by all routers
	mu          sync.Mutex
	children    []*Child
	stopping    bool       // no child is added any more
	accessMu    sync.Mutex // guards the content of AccessFile, and since when the process runs that has it
	accessText  []byte
	accessSince time.Time
	wg          sync.WaitGroup // of the goroutines that keep children and servers running
}

// Start starts engines that the configuration does not name, then all processes, and returns when each
// serves. On an error it stops what it started. Roles that nobody has are an error where this machine starts the database, which no
// process of another machine reaches.
func (u *Supervisor) Start(ctx context.Context) (err error) {
	if err := u.Check(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := u.openPublic(); err != nil {
		return err
	}
	if err := os.MkdirAll(u.Config.Server.Data, 0o755); err != nil {
		return err
	}
	if err := u.startEngines(ctx); err != nil {
		return err
	}
	if err := u.openSecret(ctx); err != nil {
		return err
	}
	if err := u.keepProgram(); err != nil {
		return err
	}
	replicas := Replicas(&u.Config.Up)
	for _, group := range slices.Sorted(maps.Keys(replicas)) {
		for n := range replicas[group] {
			if err := u.add(group, n+1); err != nil {
				return err
			}
		}
	}
	for _, c := range u.Children() {
		if err := u.WaitHealthy(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// startEngines starts a private PostgreSQL and Redis where no address is given, and shares a directory
// for blobs where no S3 is.
func (u *Supervisor) startEngines(ctx context.Context) error {
	c := u.Config
	abs, err := filepath.Abs(c.Server.Data)
	if err != nil {
		return err
	}
	c.Server.Data = abs
	if err := u.startServers(ctx); err != nil {
		return err
	}
	u.env("LYCEUM_DATABASE_URL", c.Database.URL.Reveal())
	u.env("LYCEUM_REDIS_ADDRESSES", strings.Join(c.Redis.Addresses, ","))
	if c.Blob.S3.Endpoint == "" {
		shared := filepath.Join(abs, "blobs")
		if c.Blob.Directory != "" {
			if shared, err = filepath.Abs(c.Blob.Directory); err != nil {
				return err
			}
		}
		c.Blob.Directory, c.Blob.Shared = shared, true
		u.env("LYCEUM_BLOB_DIRECTORY", shared)
		u.env("LYCEUM_BLOB_DIRECTORY_SHARED", "true")
	}
	return nil
}

// Children are the processes in the order of their names; the first with the role router comes first.
func (u *Supervisor) Children() []*Child {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.children)
}

// Find gives the processes that a word means: all, the name of one, a machine id, a group or a role.
func (u *Supervisor) Find(word string) ([]*Child, error) {
	var out []*Child
	for _, c := range u.Children() {
		s := c.State()
		if word == fleet.AllRoles || c.Name == word || c.Group == word || slices.Contains(c.Roles, word) ||
			s.Machine >= 0 && strconv.Itoa(s.Machine) == word {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q is no process, machine id, role or group of this fleet: lyceum ps shows them", word)
	}
	return out, nil
}

// add starts the process of a group with a number. It holds mu meanwhile, so that Stop finds each that was started.
func (u *Supervisor) add(group string, n int) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopping {
		return fmt.Errorf("%s-%d is not started: the fleet is being stopped", group, n)
	}
	c := &Child{Name: fmt.Sprintf("%s-%d", group, n), Group: group, Roles: strings.Split(group, "+"), up: u, program: u.Program}
	if slices.ContainsFunc(u.children, func(o *Child) bool { return o.Name == c.Name }) {
		return fmt.Errorf("%s is there already: another change is under way", c.Name)
	}
	c.public = slices.Contains(c.Roles, "router") || slices.Contains(c.Roles, fleet.AllRoles)
	address, err := c.freshAddress()
	if err != nil {
		return err
	}
	r, err := c.spawn(c.program, address)
	if err != nil {
		return err
	}
	c.run, c.address = r, address
	if c.public {
		u.children = slices.Insert(u.children, 0, c)
	} else {
		u.children = append(u.children, c)
	}
	u.wg.Go(func() { u.keep(c) })
	return nil
}

// keep starts a child again when it ends, with a growing pause, until the child is stopped.
func (u *Supervisor) keep(c *Child) {
	r, pauses := c.current(), retryPause()
	for {
		select {
		case <-r.done:
		case <-r.replaced: // it may take a while to end
		}
		c.mu.Lock()
		now, gone := c.run, c.gone
		if now == r && !gone {
			c.ended++
			c.lastLogStart = r.logFrom
		}
		c.mu.Unlock()
		if gone {
			return
		}
		if now != r { // by Restart, and it served
			r = now
			pauses.Reset()
			continue
		}
		if time.Since(r.since) > 30*time.Second {
			pauses.Reset()
		}
		pause := pauses.Next()
		if pause == firstPause { // not each end of one that does not come up
			report("%s ended (%s): starting it again", c.Name, howEnded(r.exitErr))
		}
		next, err := c.startAfter(r, pause)
		if err != nil {
			report("%s does not start again: %v", c.Name, err)
		}
		if next != nil {
			r = next
			u.wg.Go(func() { _ = u.WaitHealthy(context.Background(), c) }) // for the configuration, which may be another now
		}
	}
}

// WaitHealthy returns when a child serves. Commands have its configuration then.
func (u *Supervisor) WaitHealthy(ctx context.Context, c *Child) error {
	c.mu.Lock()
	before, from := c.ended, c.run.logFrom
	c.mu.Unlock()
	for deadline := time.Now().Add(startTime); ; time.Sleep(stepTime) {
		c.mu.Lock()
		r := c.run
		gone, serves, crashes := c.gone, c.serving(r), c.ended >= before+3
		if crashes {
			from = c.lastLogStart // each wrote the same
		}
		c.mu.Unlock()
		if gone {
			return c.stopped()
		}
		if serves {
			return u.writeAccess(r)
		}
		if crashes || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not serve; its log ends with:\n%s", c.Name, c.logSince(from, -1))
		}
	}
}

// stepTime is the pause between two looks whether a process serves.
const stepTime = 20 * time.Millisecond

// startTime is how long a process may take from its start to serving, with all others starting too.
const startTime = 90 * time.Second

// Stop ends all processes in an orderly way, then the servers that Start started. A server that is down stays so.
func (u *Supervisor) Stop(ctx context.Context) error {
	if u.stopKeeping != nil {
		u.stopKeeping()
	}
	u.mu.Lock()
	u.stopping = true
	u.mu.Unlock()
	u.stopChildren(ctx)
	err := u.stopServers() // they serve until the last process has ended
	u.wg.Wait()
	return err
}

// stopChildren ends all processes, step by step. Nobody adds one any more.
func (u *Supervisor) stopChildren(ctx context.Context) {
	steps := map[int][]*Child{}
	for _, c := range u.Children() {
		step := stopOrder(c.Roles)
		steps[step] = append(steps[step], c)
		if c.public { // none is started any more
			c.mu.Lock()
			c.gone = true
			c.mu.Unlock()
		}
	}
	if u.public != nil {
		_ = u.public.Close() // after the last router clients are refused, and do not wait
	}
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		var wg sync.WaitGroup
		for _, c := range steps[step] {
			wg.Go(func() { c.stop(ctx) })
		}
		wg.Wait()
	}
}

// stopOrder returns the step in which a process with these roles is stopped, the lowest first: 0 for those that take the requests of
// clients, 1 for those that deliver events (sync, push), 2 for owners of shards, which the others need for requests under way.
func stopOrder(roles []string) int {
	step := 0
	for _, name := range roles {
		switch i := slices.IndexFunc(fleet.Roles, func(r role.Role) bool { return r.Name == name }); {
		case i < 0 || fleet.Roles[i].Stream != "": // all roles, or one that owns shards
			return 2
		case name == "sync" || name == "push":
			step = 1
		}
	}
	return step
}
