package modeltest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
)

// kind is a step of a history.
type kind struct {
	name   string
	weight int
	fleet  bool // needs several processes
	fault  bool
	run    func(h *history, d *draw)
}

func (k *kind) String() string   { return k.name }
func (k *kind) GoString() string { return k.name }

// draw is where the numbers of a step come from.
type draw struct{ t *rapid.T }

func (d *draw) n(upto int, label string) int {
	if upto <= 1 {
		return 0
	}
	return rapid.IntRange(0, upto-1).Draw(d.t, label)
}

func pick[T any](d *draw, list []T, label string) T { return list[d.n(len(list), label)] }

func (h *history) at(d *draw) *member    { return pick(d, h.live(), "at") }
func (h *history) room(d *draw) string   { return pick(d, h.rooms, "room") }
func (h *history) joiner(d *draw) string { return pick(d, users[:3], "who") }

// sent are the events that were acknowledged in a room.
func (h *history) sent(room string) (ids []string) {
	for _, o := range h.ops {
		if o.room == room && o.settled && o.status == 200 && (o.kind == "send" || o.kind == "topic") {
			ids = append(ids, o.get("event_id").String())
		}
	}
	return ids
}

var kinds = []kind{
	{name: "send", weight: 14, run: func(h *history, d *draw) { h.say(h.joiner(d), h.room(d), h.at(d)) }},
	{name: "pass", weight: 10, run: func(h *history, d *draw) { h.decide(d, dbfault.Pass) }},
	{name: "state", weight: 6, run: func(h *history, d *draw) {
		room := h.room(d)
		h.state(h.creator[room], room, pick(d, []string{"a", "b"}, "key"), pick(d, []string{"0", "1"}, "value"), h.at(d))
	}},
	{name: "topic", weight: 3, run: func(h *history, d *draw) {
		room := h.room(d)
		h.topic(h.creator[room], room, h.at(d))
	}},
	{name: "retry", weight: 6, run: func(h *history, d *draw) {
		var list []*op
		for _, o := range h.ops {
			if o.txn != "" && o.kind != "retry" {
				list = append(list, o)
			}
		}
		if len(list) > 0 {
			h.again(list[len(list)-1-d.n(min(len(list), 8), "back")], h.at(d))
		}
	}},
	{name: "member", weight: 6, run: func(h *history, d *draw) {
		room, at := h.room(d), h.at(d)
		// The creator stays, so that the room can take a message at the end.
		target := pick(d, slices.DeleteFunc(slices.Clone(users), func(u string) bool { return u == h.creator[room] }), "target")
		switch what := pick(d, []string{"join", "leave", "ban", "unban", "kick", "invite"}, "what"); what {
		case "join", "leave":
			h.member(target, what, room, target, at)
		default:
			h.member(h.creator[room], what, room, target, at)
		}
	}},
	{name: "redact", weight: 2, run: func(h *history, d *draw) {
		room := h.room(d)
		if list := h.sent(room); len(list) > 0 {
			h.redact(h.creator[room], room, pick(d, list, "event"), h.at(d))
		}
	}},
	{name: "create", weight: 1, run: func(h *history, d *draw) {
		if len(h.rooms) < 4 {
			h.create(h.joiner(d), h.at(d))
		}
	}},
	{name: "receipt", weight: 4, run: func(h *history, d *draw) {
		room := h.room(d)
		if list := h.sent(room); len(list) > 0 {
			h.receipt(h.joiner(d), room, pick(d, list, "event"), h.at(d))
		}
	}},
	{name: "typing", weight: 2, run: func(h *history, d *draw) { h.typing(h.joiner(d), h.room(d), d.n(2, "stops") == 0, h.at(d)) }},
	{name: "presence", weight: 2, run: func(h *history, d *draw) {
		h.presence(h.joiner(d), pick(d, []string{"online", "unavailable", "offline"}, "state"), h.at(d))
	}},
	{name: "profile", weight: 2, run: func(h *history, d *draw) { h.profile(h.joiner(d), h.at(d)) }},
	{name: "toDevice", weight: 3, run: func(h *history, d *draw) { h.toDevice(h.joiner(d), h.joiner(d), h.at(d)) }},
	{name: "sync", weight: 4, run: func(h *history, d *draw) { h.sync(h.joiner(d), h.at(d)) }},
	{name: "messages", weight: 2, run: func(h *history, d *draw) { h.messages(h.joiner(d), h.room(d), h.at(d)) }},
	{name: "cancel", weight: 2, run: func(h *history, d *draw) {
		for _, o := range h.ops {
			if !o.settled && !o.lost && d.n(2, "not this") == 0 {
				h.note("the client of #%d goes away", o.n)
				h.away(o)
				return
			}
		}
	}},
	{name: "fault", weight: 6, fault: true, run: func(h *history, d *draw) { h.decide(d, pick(d, dbfault.Faults()[1:], "fault")) }},
	{name: "cut", weight: 1, fault: true, run: func(h *history, d *draw) {
		if m := h.at(d); m.proxy != nil {
			h.fault("all connections of %d break", m.slot)
			m.proxy.Cut()
		}
	}},
	{name: "restart", weight: 1, fault: true, run: func(h *history, d *draw) {
		m := h.at(d)
		h.fault("%d stops and starts again", m.slot)
		h.drain(m)
		h.must(m.leave(15*time.Second), "restart")
		h.members[m.slot] = nil
		h.join(m.slot)
		h.shut(h.members[m.slot])
	}},
	{name: "kill", weight: 1, fault: true, run: func(h *history, d *draw) {
		m := h.at(d)
		h.fault("%d is killed and starts again", m.slot)
		h.poll()
		m.kill()
		h.graves = append(h.graves, m)
		h.lose(m)
		h.members[m.slot] = nil
		h.join(m.slot)
		h.shut(h.members[m.slot])
	}},
	{name: "expire", weight: 3, fleet: true, fault: true, run: func(h *history, d *draw) {
		h.sql(
			"is taken for dead",
			h.at(d),
			"UPDATE machines SET expires_ms = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint WHERE id = $1",
			d,
		)
	}},
	{name: "alone", weight: 1, fleet: true, fault: true, run: func(h *history, d *draw) {
		m := h.at(d)
		if len(h.live()) != 2 || m.frozen {
			return
		}
		h.fault("%d stops, and the other one is alone for a while", m.slot)
		h.drain(m)
		h.must(m.leave(15*time.Second), "stop")
		h.members[m.slot] = nil
		last := h.live()[0]
		for began := time.Now(); !last.process.Leases.IsOnlyMember() && time.Since(began) < ttl; {
			time.Sleep(time.Millisecond)
		}
		quiet := d.n(2, "unheard") == 0
		last.bus.Delay(quiet || last.frozen)
		for _, room := range h.rooms {
			h.say(h.creator[room], room, last)
		}
		h.join(m.slot)
		for _, room := range h.rooms {
			h.answered(h.say(h.creator[room], room, last))
			h.messages(h.creator[room], room, h.members[m.slot])
		}
		last.bus.Delay(last.frozen)
		h.shut(h.members[m.slot])
	}},
	{name: "steal", weight: 2, fleet: true, fault: true, run: func(h *history, d *draw) {
		h.sql("loses its leases", h.at(d), "UPDATE leases SET machine = -1, epoch = epoch + 1 WHERE machine = $1", d)
	}},
	{name: "away", weight: 2, fleet: true, fault: true, run: func(h *history, d *draw) { h.leaves(h.at(d), d) }},
	{name: "back", weight: 2, fleet: true, fault: true, run: func(h *history, d *draw) { h.returns(h.at(d), d) }},
	{name: "trip", weight: 1, fleet: true, fault: true, run: func(h *history, d *draw) {
		m := h.at(d)
		h.leaves(m, d)
		for _, room := range h.rooms {
			h.answered(h.say(h.creator[room], room, h.live()[0]))
		}
		h.returns(m, d)
	}},
	{name: "hold", weight: 2, fleet: true, fault: true, run: func(h *history, d *draw) {
		if m := h.at(d); m.proxy != nil {
			h.fault("%d waits for what it reads of rooms", m.slot)
			m.proxy.HoldAnswers(ofRooms)
		}
	}},
	{name: "let", weight: 3, fleet: true, run: func(h *history, d *draw) {
		if m := h.at(d); m.proxy != nil {
			h.note("%d gets what it read", m.slot)
			m.proxy.LetAnswers()
		}
	}},
	{name: "freeze", weight: 1, fleet: true, fault: true, run: func(h *history, d *draw) {
		if m := h.at(d); m.proxy != nil && !m.frozen {
			h.fault("%d stands still", m.slot)
			m.freeze()
		}
	}},
	{name: "thaw", weight: 2, fleet: true, run: func(h *history, _ *draw) {
		for _, m := range h.live() {
			if m.frozen {
				h.note("%d goes on", m.slot)
				m.thaw()
				return
			}
		}
	}},
	{name: "bus", weight: 4, fleet: true, fault: true, run: func(h *history, d *draw) {
		m := h.at(d)
		switch what := pick(d, []string{"flow", "away", "delay", "twice"}, "bus"); what {
		case "flow":
			h.note("the bus of %d is well", m.slot)
			m.bus.Disconnect(false)
			m.bus.Delay(m.frozen)
			m.bus.Duplicate(false)
		default:
			h.fault("the bus of %d: %s", m.slot, what)
			m.bus.Disconnect(what == "away")
			m.bus.Delay(what == "delay" || m.frozen)
			m.bus.Duplicate(what == "twice")
		}
	}},
	{name: "time", weight: 1, fleet: true, run: func(h *history, _ *draw) {
		h.note("time passes")
		time.Sleep(ttl / 4)
	}},
}

func (h *history) fault(format string, args ...any) {
	h.broken = true
	h.note(format, args...)
}

// leaves makes the others take the shards of a process, and returns makes it take its share again. Both wait a while for it.
func (h *history) leaves(m *member, d *draw) {
	h.sql("hands its shards over", m, "UPDATE machines SET draining = TRUE WHERE id = $1", d)
	h.soon(func() bool { n, _ := m.owns(); return n == 0 })
}

func (h *history) returns(m *member, d *draw) {
	h.sql("takes its shards again", m, "UPDATE machines SET draining = FALSE WHERE id = $1", d)
	h.soon(func() bool { n, _ := m.owns(); return n > 0 })
}

// sql breaks something through the database, and tells the processes at once or leaves them to find out.
func (h *history) sql(what string, m *member, query string, d *draw) {
	h.fault("%d %s", m.slot, what)
	ctx := context.Background()
	_, err := h.control.Exec(ctx, query, m.process.Machine())
	switch {
	case db.IsTemporary(err) && slices.ContainsFunc(h.live(), func(m *member) bool { return m.frozen }):
		h.note("it does not: one that stands still holds a row")
	case err != nil:
		h.fail("%s: %v", query, err)
	}
	if d.n(2, "unheard") == 0 {
		_ = h.bus.Publish(ctx, bus.Message{Topic: "leases"})
	}
}

// decide gives one commit that is held its fate.
func (h *history) decide(d *draw, f dbfault.Fault) {
	var held []*dbfault.Held
	var slots []int
	for _, m := range h.live() {
		for _, x := range m.Held() {
			held = append(held, x)
			slots = append(slots, m.slot)
		}
	}
	if len(held) == 0 {
		return
	}
	i := d.n(len(held), "commit")
	h.broken = h.broken || f != dbfault.Pass
	h.fates[f]++
	h.note("a commit of %d: %v", slots[i], f)
	held[i].Decide(f)
}

// setting is a sort of histories.
type setting struct {
	name      string
	engine    string
	processes int
	faults    bool
	limits    limits
	open      bool           // commits pass at once, but for what faults there are
	only      map[string]int // kinds of steps with what they weigh here; nil for all
	// known are defects that are not cured yet and that these histories would else find all the time.
	known known
}

// known defects, that a setting goes on behind.
type known struct {
	// A full queue of another process is answered with 500, as its error loses its kind on the way.
	busyOverWire bool
	// An operation that was done at an owner whose answer was lost is refused by the next owner.
	refusedAfterMove bool
}

// wide is a world in which the queue does not fill up.
var wide = limits{queue: 1000, batch: 4, readLimit: 2, recent: 2, transactions: 5, state: 6}

var fleetKnown = known{}

var settings = []setting{
	{name: "postgres, one process", engine: "postgres", processes: 1, faults: true, limits: small},
	{name: "postgres, one process, no faults", engine: "postgres", processes: 1, limits: small},
	{name: "postgres, one process, wide queue", engine: "postgres", processes: 1, faults: true, limits: wide},
	{
		name:      "postgres, one process, few kinds",
		engine:    "postgres",
		processes: 1,
		faults:    true,
		limits:    wide,
		only:      map[string]int{"send": 10, "pass": 10, "receipt": 8, "fault": 8},
	},
	{name: "postgres, two processes", engine: "postgres", processes: 2, faults: true, limits: small, known: fleetKnown},
	{name: "postgres, two processes, no faults", engine: "postgres", processes: 2, limits: wide, known: fleetKnown},
	{name: "postgres, two processes, wide queue", engine: "postgres", processes: 2, faults: true, limits: wide, known: fleetKnown},
	{name: "postgres, three processes", engine: "postgres", processes: 3, faults: true, limits: wide, known: fleetKnown},
	{
		name:      "postgres, two processes, shards come back",
		engine:    "postgres",
		processes: 2,
		faults:    true,
		open:      true,
		limits:    wide,
		known:     fleetKnown,
		only:      map[string]int{"send": 3, "retry": 3, "state": 3, "trip": 2, "hold": 3, "let": 1},
	},
	{
		name:      "postgres, two processes, one at times",
		engine:    "postgres",
		processes: 2,
		faults:    true,
		open:      true,
		limits:    wide,
		known:     fleetKnown,
		only:      map[string]int{"send": 6, "state": 3, "receipt": 2, "messages": 4, "sync": 3, "alone": 5, "expire": 1, "pass": 2},
	},
	{
		name:      "postgres, two processes, names",
		engine:    "postgres",
		processes: 2,
		faults:    true,
		open:      true,
		limits:    wide,
		known:     fleetKnown,
		only:      map[string]int{"profile": 8, "send": 2, "member": 1, "bus": 4, "expire": 1},
	},
	{
		name:      "postgres, three processes, names",
		engine:    "postgres",
		processes: 3,
		faults:    true,
		limits:    wide,
		known:     fleetKnown,
		only: map[string]int{
			"profile": 8, "send": 4, "member": 3, "create": 1, "pass": 10, "cancel": 3, "fault": 6, "cut": 2, "restart": 1, "kill": 2,
			"expire": 3, "steal": 2,
			"away": 2, "back": 2, "trip": 1, "hold": 3, "let": 3, "freeze": 3, "thaw": 3, "bus": 4, "time": 1,
		},
	},
	{name: "sqlite, one process", engine: "sqlite", processes: 1, faults: true, limits: small},
	{name: "sqlite, one process, wide queue", engine: "sqlite", processes: 1, faults: true, limits: wide},
}

// steps are the kinds of a setting, as often as they weigh.
func (s *setting) steps() (out []*kind) {
	for i, k := range kinds {
		weight := k.weight
		if s.only != nil {
			weight = s.only[k.name]
		}
		if k.fleet && s.processes == 1 || k.fault && !s.faults {
			weight = 0
		}
		for range weight {
			out = append(out, &kinds[i])
		}
	}
	return out
}

// run is one history.
func run(t *rapid.T, st store, s *setting, found func(finding string), fates *fates) {
	h := begin(t, st, s, found)
	defer h.close()
	steps := s.steps()
	n := 0
	t.Repeat(map[string]func(*rapid.T){"step": func(t *rapid.T) {
		if n++; n > mostSteps {
			return
		}
		rapid.SampledFrom(steps).Draw(t, "kind").run(h, &draw{t})
		h.settle()
	}})
	h.finish()
	fates.add(h.fates)
}

// mostSteps bounds a history: their lengths differ much.
const mostSteps = 100

// fates count what became of group commits.
type fates struct {
	mu sync.Mutex
	n  map[dbfault.Fault]int
}

func (f *fates) add(more map[dbfault.Fault]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fault, n := range more {
		f.n[fault] += n
	}
}

func (f *fates) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, fault := range dbfault.Faults() {
		if f.n[fault] > 0 {
			out = append(out, fmt.Sprint(f.n[fault], " ", fault))
		}
	}
	return strings.Join(out, ", ")
}

// usual is how long the histories of a test run take.
const usual = 45 * time.Second

// TestModel runs histories of all settings, several at a time, until the time is over: LYCEUM_CHAOS, or a while. With
// -rapid.seed it runs those of one seed.
func TestModel(t *testing.T) {
	last := time.Duration(0)
	if !given["rapid.seed"] {
		last = usual
		if text := os.Getenv("LYCEUM_CHAOS"); text != "" {
			var err error
			if last, err = time.ParseDuration(text); err != nil {
				t.Fatalf("LYCEUM_CHAOS: %v", err)
			}
		}
	}
	for i := range settings {
		s := &settings[i]
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			st := named(t, s.engine)
			var n atomic.Int64
			var first sync.Once
			fates := &fates{n: map[dbfault.Fault]int{}}
			began := time.Now()
			for again := true; again && !t.Failed(); again = time.Since(began) < last {
				rapid.Check(t, func(rt *rapid.T) {
					n.Add(1)
					run(rt, st, s, func(finding string) {
						first.Do(func() { t.Logf("found in history %d, before it was made shorter: %s", n.Load(), finding) })
					}, fates)
				})
			}
			each := time.Since(began) / time.Duration(n.Load())
			fmt.Printf("%s: %d histories, %s each; commits: %v\n", s.name, n.Load(), each.Round(time.Millisecond), fates)
		})
	}
}

// given are the flags of the command line.
var given = map[string]bool{}

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	preset := map[string]string{
		"rapid.checks":     "5", // between two looks at the clock
		"rapid.nofailfile": "true",
		"test.parallel":    "5", // histories wait most of the time
	}
	if seed := os.Getenv("LYCEUM_MODEL_SEED"); seed != "" {
		preset["rapid.seed"] = seed
		given["rapid.seed"] = true
	}
	for name, value := range preset {
		if !given[name] || name == "rapid.seed" {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	code := m.Run()
	if used.Load() {
		if pg, err := server(); err == nil {
			_ = pg.Stop()
		}
		_ = os.RemoveAll(serverDir)
	}
	os.Exit(code)
}
