package role

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/platform/backoff"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
)

// Role is one job that a process can have.
type Role struct {
	Name    string
	Purpose string // one line
	Stream  string // the stream whose shards its processes share; "" for none
	Key     string // what balances its requests: room, user, "" for any
	Serves  string // in words, for the manual
	Pool    string // role whose processes serve it where no process has this one; "" for none
}

// NoRole is the role of a process that has none: a command such as lyceum user, which only calls others.
const NoRole = "none"

// Process is this process, as the domains know it.
type Process struct {
	DB      *db.DB
	Bus     bus.Bus
	Leases  *lease.Leases
	Streams *stream.Streams
	RPC     *rpc.Node // nil when alone
	Log     *slog.Logger
	Roles   []Role // the table of all roles

	lastID      atomic.Int64
	epoch       uint32
	backgrounds []background
	jobs        []string
	members     atomic.Pointer[members]
}

type background struct {
	name string
	run  func(ctx context.Context) error
}

// Machine is the machine id of this process.
func (p *Process) Machine() int { return p.Leases.Self().ID }

// LogEpoch identifies the history of the database, which changes with a restore: stream positions of another history mean nothing. It has
// nothing to do with the epochs of leases.
func (p *Process) LogEpoch() uint32 { return p.epoch }

// SetLogEpoch is called once at the start.
func (p *Process) SetLogEpoch(epoch uint32) { p.epoch = epoch }

// idAlphabet is in the order of bytes, so that ids sort by time.
const idAlphabet = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

// idRandom is how many characters of an id are random; each has 6 bits, so these are 132.
const idRandom = 22

// NewID makes an id that no other process makes and that nobody can guess: 41 bits of milliseconds since 2020, 10 bits
// of machine id and 13 bits of sequence, as 11 characters that sort by time within a machine, then 132 random bits as
// 22 characters. One id does not reveal the next: a media id, or the id of a public room that is listed nowhere, is
// all that a stranger needs to get in.
func (p *Process) NewID() string {
	const start = 1577836800000 // 2020-01-01, in ms since 1970
	for {
		last := p.lastID.Load()
		next := max((time.Now().UnixMilli()-start)<<13, last+1)
		if !p.lastID.CompareAndSwap(last, next) {
			continue
		}
		v := uint64(next>>13)<<23 | uint64(p.Machine())<<13 | uint64(next&0x1fff)
		var b [11 + idRandom]byte
		_, _ = rand.Read(b[11:]) // never fails: the runtime ends the process instead
		for i := range b[11:] {
			b[11+i] = idAlphabet[b[11+i]&63]
		}
		for i := range 11 {
			b[10-i] = idAlphabet[v&63]
			v >>= 6
		}
		return string(b[:])
	}
}

// Go adds a background part. It is started with the process, restarted after a growing pause when it fails, and
// stopped at the end.
func (p *Process) Go(name string, run func(ctx context.Context) error) {
	p.backgrounds = append(p.backgrounds, background{name, run})
}

// Run runs the registration, the streams and the background parts until ctx ends. Then the parts end first, the shards
// are handed over, and the registration ends.
func (p *Process) Run(ctx context.Context) error {
	if err := p.Streams.Start(ctx); err != nil {
		if ctx.Err() != nil {
			err = nil // stopped before it began
		}
		return errors.Join(err, p.Leases.Leave(context.WithoutCancel(ctx)))
	}
	base := context.WithoutCancel(ctx)
	leases, stopLeases := context.WithCancel(base)
	defer stopLeases()
	streams, stopStreams := context.WithCancel(base)
	defer stopStreams()
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()

	var g errgroup.Group
	g.Go(func() error {
		defer stopWork()
		return p.Leases.Run(leases)
	})
	var streamsDone sync.WaitGroup
	var streamErr error
	streamsDone.Go(func() { streamErr = p.Streams.Run(streams) })
	var parts sync.WaitGroup
	for _, part := range p.backgrounds {
		parts.Go(func() { p.keepRunning(work, part) })
	}
	<-work.Done()
	parts.Wait()
	stopStreams()
	streamsDone.Wait()
	end, cancel := context.WithTimeout(base, 3*time.Second)
	defer cancel()
	leaveErr := p.Leases.Leave(end)
	stopLeases()
	return errors.Join(g.Wait(), streamErr, leaveErr)
}

func (p *Process) keepRunning(ctx context.Context, part background) {
	pause := backoff.Backoff{First: 100 * time.Millisecond, Max: 10 * time.Second}
	for {
		start := time.Now()
		err := part.run(ctx)
		if ctx.Err() != nil || err == nil {
			return
		}
		p.Log.Error("a background part failed and starts again", "part", part.name, "error", err)
		if time.Since(start) > time.Minute {
			pause.Reset()
		}
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

// FindRole returns a role of the table.
func (p *Process) FindRole(name string) (Role, bool) {
	i := slices.IndexFunc(p.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return p.Roles[i], true
}

// IsAlive tells whether the process at an internal address was alive when the view was last read.
func (p *Process) IsAlive(addr string) bool {
	return slices.ContainsFunc(p.Leases.Machines(), func(m lease.Machine) bool { return m.Address == addr })
}
