package modeltest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	stdsync "sync"
	"sync/atomic"
	"time"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/fleet/rpcerror"
	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/bus/busfault"
	"lyceum/platform/conf"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/syncapi"
	"lyceum/typing"
)

// limits of a history. Those of the product are too far away to be reached in a few steps.
type limits struct{ queue, batch, readLimit, recent, transactions, state int }

var small = limits{queue: 3, batch: 4, readLimit: 2, recent: 2, transactions: 5, state: 6}

// member is a process of a history.
type member struct {
	*way
	slot    int
	bus     *busfault.Bus
	process *role.Process
	rooms   *rooms.Rooms
	log     *slog.Logger
	handler http.Handler
	ears    *ears // nil when alone
	stop    context.CancelFunc
	ended   chan struct{}
	err     error // of the end
	frozen  bool
	killed  atomic.Bool
}

// ears is a listener whose connections can be cut.
type ears struct {
	net.Listener
	mu    stdsync.Mutex
	conns []net.Conn
	deaf  bool
}

func (e *ears) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	e.conns = append(e.conns, c)
	return c, nil
}

func (e *ears) cut() {
	e.mu.Lock()
	e.deaf = true
	conns := e.conns
	e.mu.Unlock()
	_ = e.Listener.Close()
	for _, c := range conns {
		_ = c.Close()
	}
}

// signing is the key of all processes.
var signing = stdsync.OnceValues(func() (matrix.SigningKey, error) { return matrix.GenerateSigningKey("test", rand.Reader) })

// join starts a process.
func join(ctx context.Context, s store, shared bus.Bus, l limits, alone bool, slot int, j *journal) (m *member, err error) {
	w, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	m = &member{way: w, slot: slot, bus: busfault.New(shared), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			_ = m.bus.Close()
			if m.ears != nil {
				m.ears.cut()
			}
			w.close()
		}
	}()
	log := slog.New(scribe{j: j, slot: slot, dead: &m.killed})
	m.log = log
	o := lease.Options{Machine: -1, Roles: []string{"all"}, Embedded: alone, Log: log, TTL: ttl}
	var node *rpc.Node
	if !alone {
		if node, err = rpc.New(rpc.Options{Secret: bytes.Repeat([]byte("k"), 32), Errors: rpcerror.Codec{}, Log: log}); err != nil {
			return nil, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		m.ears = &ears{Listener: listener}
		o.Address = listener.Addr().String()
		o.Announce = func() { _ = m.bus.Publish(context.Background(), bus.Message{Topic: "leases"}) }
	}
	leases, err := lease.Open(ctx, w.db, o)
	if err != nil {
		return nil, err
	}
	p := &role.Process{DB: w.db, Bus: m.bus, Leases: leases, RPC: node, Log: log}
	p.Streams = stream.New(
		stream.Options{DB: w.db, Bus: m.bus, Leases: leases, Log: log, Queue: l.queue, Batch: l.batch, ReadLimit: l.readLimit},
	)
	m.process = p
	if err := m.wire(l); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	serving, stopServing := context.WithCancel(context.Background())
	m.stop = stop
	go func() {
		defer close(m.ended)
		if node == nil {
			m.err = p.Run(running)
			stopServing()
			return
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = node.Serve(serving, m.ears)
		}()
		m.err = p.Run(running)
		stopServing()
		<-served
	}()
	return m, nil
}

// notifier tells the rooms, which are made later, of changes of accounts.
type notifier struct{ rooms *rooms.Rooms }

// ProfileChanged implements accounts.ProfileListener.
func (u *notifier) ProfileChanged(ctx context.Context, userID, field string) error {
	return u.rooms.ProfileChanged(ctx, userID, field)
}

// wire makes the domains as package fleet does.
func (m *member) wire(l limits) error {
	p := m.process
	above := &notifier{}
	a, err := accounts.New(accounts.Deps{Process: p, Now: time.Now, Profile: above}, accounts.Config{
		ServerName: serverName, Registration: accounts.OpenRegistration, Password: accounts.PasswordConfig{MemoryKiB: 64, Passes: 1},
	})
	if err != nil {
		return err
	}
	key, err := signing()
	if err != nil {
		return err
	}
	r, err := rooms.New(
		rooms.Deps{
			Process:      p,
			Accounts:     a,
			ServerName:   serverName,
			Key:          key,
			RecentEvents: l.recent,
			RecentTxns:   l.transactions,
			CachedState:  l.state,
		},
		rooms.Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100},
	)
	if err != nil {
		return err
	}
	m.rooms, above.rooms = r, r
	x, err := devices.New(devices.Deps{Process: p, Accounts: a, Now: obs.Now, SharedRooms: r}, devices.Config{})
	if err != nil {
		return err
	}
	rc := receipts.New(receipts.Deps{Process: p, Accounts: a, Rooms: r})
	ty := typing.New(typing.Deps{Process: p, Rooms: r})
	pr := presence.New(presence.Deps{Process: p, Rooms: r}, presence.Config{Enabled: true, OfflineAfter: conf.Duration(time.Hour)})
	pu, err := push.New(push.Deps{Process: p, Accounts: a, Rooms: r, Receipts: rc}, push.Config{CountCache: 1000})
	if err != nil {
		return err
	}
	sy := syncapi.New(
		syncapi.Deps{Process: p, Accounts: a, Devices: x, Rooms: r, Receipts: rc, Typing: ty, Presence: pr, Push: pu},
		syncapi.Config{Window: 20, MaxTimeout: 90},
	)
	tokens := webtest.People{}
	for _, name := range users {
		tokens[name] = &web.Identity{UserID: userID(name), DeviceID: deviceID(name)}
	}
	s, err := web.New(web.Options{Log: m.log, Authenticator: tokens, Barrier: p.Streams.Barrier})
	if err != nil {
		return err
	}
	for _, routes := range [][]web.Route{a.Routes(), r.Routes(), x.Routes(), rc.Routes(), ty.Routes(), pr.Routes(), pu.Routes(), sy.Routes()} {
		s.Add(routes...)
	}
	m.handler = s.Handler()
	return nil
}

// owns counts the shards that the process owns, and all that there are.
func (m *member) owns() (owned, all int) {
	for _, st := range m.process.Streams.All() {
		for i := range st.Shards() {
			all++
			if st.Owns(i) {
				owned++
			}
		}
	}
	return owned, all
}

// recover ends all that is broken about a process.
func (m *member) recover() {
	m.thaw()
	m.bus.Disconnect(false)
	m.bus.Duplicate(false)
	m.bus.Delay(false)
	if m.proxy != nil {
		m.proxy.LetAnswers()
	}
	m.Gate.Open()
}

// ofRooms tells the reads with which the owner of a room learns of it, and those that confirm its ownership: not those of the
// tails and of the leases themselves, without which no shard moves.
func ofRooms(r dbfault.Read) bool {
	for _, part := range []string{"FROM state_nodes", "e.event_id = ANY", "FROM rooms r"} {
		if strings.Contains(r.Query, part) {
			return true
		}
	}
	return strings.Contains(r.Query, "FROM leases") && bytes.Contains(r.Values, []byte("stream/\x7f"))
}

// leave stops a process as a signal does. What waits at its gate goes on.
func (m *member) leave(within time.Duration) error {
	m.recover()
	m.stop()
	select {
	case <-m.ended:
	case <-time.After(within):
		return fmt.Errorf("the process of slot %d does not end within %s", m.slot, within)
	}
	m.release()
	return nil
}

func (m *member) release() {
	_ = m.bus.Close()
	if m.ears != nil {
		m.ears.cut()
	}
	m.way.close()
}

// kill takes all connections from a process. Its goroutines can do no harm any more.
func (m *member) kill() {
	m.killed.Store(true)
	if m.ears != nil {
		m.ears.cut()
	}
	_ = m.bus.Close()
	if m.proxy != nil {
		m.proxy.Away(true)
	}
	m.Gate.End()
	m.stop()
	m.way.close()
}

func (m *member) freeze() {
	if m.proxy != nil && !m.frozen {
		m.frozen = true
		m.proxy.Freeze()
		m.bus.Delay(true)
	}
}

func (m *member) thaw() {
	if m.frozen {
		m.frozen = false
		m.proxy.Thaw()
		m.bus.Delay(false)
	}
}

const ttl = 1500 * time.Millisecond
