package syncapi

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// newest stands for a version that knows one more stream than this program.
type newest struct {
	layout *stream.Layout
	last   [3]int64
}

func newestOf(s *Sync) *newest {
	return &newest{layout: stream.NewLayout(append(s.parts, stream.Part{Number: 50, Generation: 1, At: tokenSize, N: 3})...)}
}

// visit reads the position of the new stream from a token, and returns a token with the next one.
func (n *newest) visit(t *testing.T, token string) string {
	t.Helper()
	positions := make([]int64, tokenSize+3)
	told, err := n.layout.Decode(token, positions)
	if err != nil {
		t.Fatal(err)
	}
	if at := [3]int64(positions[tokenSize:]); at != n.last || told.Has(50) != (n.last[0] > 0) {
		t.Fatalf("the newest version left %v, found %v", n.last, at)
	}
	n.last[0], n.last[2] = n.last[0]+1, n.last[2]+1000
	copy(positions[tokenSize:], n.last[:])
	return n.layout.Encode(told.Log, positions, told.Carried)
}

// eventCounts counts how often a client is told of each event.
type eventCounts map[string]int

func (g eventCounts) take(c *client, room string, more ...string) {
	a := c.sync(more...)
	for _, body := range bodies(in(a, "join", room, "timeline.events")) {
		g["message "+body]++
	}
	for _, e := range in(a, "join", room, "ephemeral.events").Array() {
		if e.Get("type").String() == "m.receipt" {
			for event := range e.Get("content").Map() {
				g["receipt "+event]++
			}
		}
	}
	for _, e := range a.Get("account_data.events").Array() {
		g["datum "+e.Get("type").String()]++
	}
	for _, e := range a.Get("to_device.events").Array() {
		g["to-device "+e.Get("content.n").String()]++
	}
	for _, who := range a.Get("device_lists.changed").Array() {
		g["devices "+who.String()]++
	}
	for _, e := range a.Get("presence.events").Array() {
		if e.Get("sender").String() == id("bob") {
			g["presence"] = int(e.Get("content.status_msg").Int())
		}
	}
}

func twoVersions(t *testing.T, body func(t *testing.T, older, newer *testNode)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			target := "sqlite:" + filepath.Join(t.TempDir(), "test.db")
			if engine == "postgres" {
				target = enginestest.TestPostgres(t)
			}
			d := dbtest.Open(t, target, migrations()...)
			older, newer, _ := roletest.Two(t, d, func(p *role.Process) *testNode { return wire(t, p) })
			for _, name := range names {
				if _, err := older.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := older.Accounts.CreateDevice(t.Context(), id("alice"), "ALICE", ""); err != nil {
				t.Fatal(err)
			}
			body(t, older, newer)
		})
	}
}

// without is a layout that lacks a stream, as that of a version before the stream was.
func without(s *Sync, number int) *stream.Layout {
	return stream.NewLayout(slices.DeleteFunc(slices.Clone(s.parts), func(p stream.Part) bool { return p.Number == number })...)
}

// TestClientsHopBetweenVersions: while two versions serve, of which one does not know a stream, a client that goes from one
// to the other gets everything once. A third version, which knows one more stream, finds its position again.
func TestClientsHopBetweenVersions(t *testing.T) {
	twoVersions(t, func(t *testing.T, older, newer *testNode) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		for _, lacks := range newer.parts {
			if lacks.At == toDeviceAt { // a queue: what waits in it is given by whoever is asked
				continue
			}
			t.Run(fmt.Sprintf("without stream %d", lacks.Number), func(t *testing.T) {
				older.layout = without(older.Sync, lacks.Number)
				hop(t, r, older, newer, lacks.Number)
			})
		}
	})
}

func hop(t *testing.T, r *rand.Rand, older, newer *testNode, lacks int) {
	bob := newer.as(t, "bob")
	room := newer.room(t, "bob", "alice")
	alice := newer.as(t, "alice")
	alice.sync("set_presence", "offline")
	after, seen := newestOf(newer.Sync), eventCounts{}
	want, last := eventCounts{}, ""
	devices := false // of bob changed since the newer version was asked
	for n := range 40 {
		name := fmt.Sprintf("%s-%d", room, n)
		switch r.IntN(6) {
		case 0:
			last = bob.say(room, name)
			want["message "+name]++
		case 1:
			if last != "" {
				bob.do(room, "receipt/m.read/"+url.PathEscape(last), nil)
				want["receipt "+last] = 1
			}
		case 2:
			alice.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/account_data/"+url.PathEscape(name), obj{})
			want["datum "+name]++
		case 3:
			bob.Want(200, "PUT "+api+"/sendToDevice/m.x/"+url.PathEscape(name), obj{"messages": obj{id("alice"): obj{"ALICE": obj{"n": name}}}})
			want["to-device "+name]++
		case 4:
			if err := newer.Devices.DevicesRemoved(t.Context(), id("bob"), []string{"OLD"}); err != nil {
				t.Fatal(err)
			}
			devices = true
		case 5:
			bob.Want(200, "PUT "+api+"/presence/"+url.PathEscape(id("bob"))+"/status", obj{"presence": "online", "status_msg": fmt.Sprint(n)})
			want["presence"] = n
		}
		to := older
		if r.IntN(2) == 0 {
			to = newer
		}
		if alice.Client = to.http.As("alice"); r.IntN(5) == 0 {
			alice.peek("set_presence", "offline") // the answer is lost
		}
		before := seen["devices "+id("bob")]
		seen.take(alice, room, "set_presence", "offline")
		if told := seen["devices "+id("bob")] > before; told != (devices && (to == newer || lacks != newer.Devices.DeviceListStream().Number())) {
			t.Fatalf("step %d: bob's devices changed: %v, and alice was told: %v", n, devices, told)
		} else if told {
			devices = false
		}
		if r.IntN(3) == 0 {
			alice.since = after.visit(t, alice.since)
		}
	}
	alice.Client = newer.http.As("alice")
	seen.take(alice, room, "set_presence", "offline")
	delete(seen, "devices "+id("bob"))
	if want["presence"] == 0 {
		delete(seen, "presence")
	}
	for what := range want {
		if what != "receipt "+last && strings.HasPrefix(what, "receipt ") && seen[what] == 0 {
			delete(want, what) // a newer one replaced it
		}
	}
	same(t, "what alice got", seen, want)
	a := alice.sync("set_presence", "offline")
	same(t, "what is left", a.Get("rooms").Raw+a.Get("account_data").Raw+a.Get("to_device").Raw+a.Get("device_lists").Raw, "")
}

// TestMessagesThatWaitOutliveAForeignToken: to-device messages are deleted when a token says that they arrived. A token that does not
// name their stream does not say so.
func TestMessagesThatWaitOutliveAForeignToken(t *testing.T) {
	twoVersions(t, func(t *testing.T, _, h *testNode) {
		alice := h.as(t, "alice")
		alice.sync()
		send := func(n int) {
			h.as(t, "bob").Want(200, fmt.Sprintf("PUT %s/sendToDevice/m.x/%d", api, n), obj{"messages": obj{id("alice"): obj{"ALICE": obj{"n": n}}}})
		}
		send(1)
		positions := make([]int64, tokenSize)
		if _, err := h.layout.Decode(alice.since, positions); err != nil {
			t.Fatal(err)
		}
		number := h.Devices.ToDeviceStream().Number()
		others := newLayout(h.Sync, stream.Part{Number: number, Generation: 1, At: toDeviceAt, N: 1})
		for _, odd := range []*stream.Layout{without(h.Sync, number), others} {
			alice.since = odd.Encode(h.Process.LogEpoch(), positions, "")
			for range 2 { // the first answer may be lost
				same(t, "to-device", alice.peek().Get("to_device.events.#.content.n").Raw, "[1]")
			}
		}
		alice.sync()
		send(2)
		same(t, "to-device", alice.sync().Get("to_device.events.#.content.n").Raw, "[2]")
	})
}

// newLayout returns the layout of a process in which one part is another.
func newLayout(s *Sync, p stream.Part) *stream.Layout {
	parts := slices.Clone(s.parts)
	for i := range parts {
		if parts[i].At == p.At {
			parts[i] = p
		}
		if i > 0 {
			parts[i].At = parts[i-1].At + parts[i-1].N
		}
	}
	return stream.NewLayout(parts...)
}

// TestOtherShardsLoseNothing: a token that names a stream with other shards is no error. That stream is read from its start, the others
// from their positions.
func TestOtherShardsLoseNothing(t *testing.T) {
	twoVersions(t, func(t *testing.T, _, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room, left := h.room(t, "bob", "alice"), h.room(t, "bob", "alice")
		long := h.room(t, "bob", "carol", "dave", "alice")
		h.maxMemberEvents = 2
		alice.sync("set_presence", "offline")
		token := alice.since
		own := "user/" + url.PathEscape(id("alice")) + "/account_data/"
		alice.Want(200, "PUT "+api+"/"+own+"a.b", obj{"x": 1})
		alice.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/rooms/"+url.PathEscape(room)+"/account_data/c.d", obj{"x": 1})
		event := bob.say(room, "one")
		bob.do(room, "receipt/m.read/"+url.PathEscape(event), nil)
		bob.Want(200, "PUT "+api+"/presence/"+url.PathEscape(id("bob"))+"/status", obj{"presence": "online", "status_msg": "here"})
		bob.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("bob"))), obj{"typing": true, "timeout": 100_000})
		if err := h.Devices.DevicesRemoved(t.Context(), id("bob"), []string{"OLD"}); err != nil {
			t.Fatal(err)
		}
		alice.do(left, "leave", nil)
		var all []string
		for i := range 60 {
			bob.say(long, fmt.Sprint(i))
			all = append(all, fmt.Sprint(i))
		}
		invite := h.as(t, "carol").create(obj{"invite": []string{id("alice")}})
		// Where alice is now, and where she was.
		alice.sync("set_presence", "offline")
		var now, was vector
		if _, err := h.layout.Decode(alice.since, now[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := h.layout.Decode(token, was[:]); err != nil {
			t.Fatal(err)
		}
		for _, p := range h.parts {
			for _, shape := range []struct{ generation, n int }{{1, 2 * p.N}, {3, p.N}, {0, p.N + 1}} {
				t.Run(fmt.Sprintf("stream %d as generation %d of %d", p.Number, shape.generation, shape.n), func(t *testing.T) {
					odd := newLayout(h.Sync, stream.Part{Number: p.Number, Generation: shape.generation, At: p.At, N: shape.n})
					positions := slices.Concat(now[:p.At], slices.Repeat([]int64{1 << 40}, shape.n), now[p.At+p.N:])
					alice.since = odd.Encode(h.Process.LogEpoch(), positions, "")
					limit, rest := 5, all[55:]
					if shape.generation == 0 { // all there is, and the client may have a part of it
						limit, rest = 100, all
					}
					a := alice.sync("set_presence", "offline", "timeout", "90000", "filter", fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, limit))
					is := func(at int) bool { return p.At == at }
					check := func(what string, given, expected bool) {
						if given != expected {
							t.Errorf("%s: given: %v, expected: %v, in %s", what, given, expected, a.Body)
						}
					}
					for id, want := range map[string]string{room: "[one]", long: fmt.Sprint(rest)} {
						check("messages", fmt.Sprint(bodies(in(a, "join", id, "timeline.events"))) == want, is(eventsAt))
						check("gap", in(a, "join", id, "timeline.limited").Bool(), is(eventsAt))
						check("state", in(a, "join", id, `state.events.#(type="m.room.create")`).Exists(), is(eventsAt) && limit == 5)
					}
					check("left", in(a, "leave", left, "").Exists(), is(eventsAt))
					check("invite", in(a, "invite", invite, "").Exists(), is(eventsAt))
					check("account data", a.Get(`account_data.events.#(type="a.b")`).Exists(), is(accountDataAt))
					check("account data of the room", in(a, "join", room, `account_data.events.#(type="c.d")`).Exists(), is(accountDataAt) || is(eventsAt))
					check("receipt", in(a, "join", room, `ephemeral.events.#(type="m.receipt")`).Exists(), is(receiptsAt) || is(eventsAt))
					check("typing", in(a, "join", room, `ephemeral.events.#(type="m.typing")`).Exists(), is(typingAt) || is(eventsAt))
					check("presence", a.Get(`presence.events.#(sender="`+id("bob")+`")`).Exists(), is(presenceAt) || is(eventsAt))
					check("devices", a.Get(`device_lists.changed.#(="`+id("bob")+`")`).Exists(), is(deviceListsAt) || is(eventsAt))
					check("devices of who joined early", a.Get(`device_lists.changed.#(="`+id("dave")+`")`).Exists(), is(eventsAt))
					a = alice.sync("set_presence", "offline")
					same(t, "after that", a.Get("rooms").Raw+a.Get("account_data").Raw+a.Get("presence").Raw+a.Get("device_lists").Raw, "")
				})
			}
		}
		// A stream that the token does not know begins where it is now.
		for _, p := range h.parts {
			old := without(h.Sync, p.Number).Encode(h.Process.LogEpoch(), was[:], "")
			alice.since = old
			a := alice.sync("set_presence", "offline")
			missed := map[int]bool{
				eventsAt: !in(a, "join", long, "timeline").Exists(), receiptsAt: !in(a, "join", room, `ephemeral.events.#(type="m.receipt")`).Exists(),
				typingAt: !in(a, "join", room, `ephemeral.events.#(type="m.typing")`).Exists(), presenceAt: !a.Get("presence").Exists(),
				deviceListsAt: !a.Get("device_lists.changed").Exists(), accountDataAt: !a.Get("account_data").Exists(),
			}
			for at, is := range missed {
				if is != (at == p.At) {
					t.Errorf("without stream %d, part %d: left out: %v, in %s", p.Number, at, is, a.Body)
				}
			}
		}
	})
}

// TestAnOddTokenIsAnsweredAtOnce: while a client has no token that names all streams, a lost answer could cost it something.
func TestAnOddTokenIsAnsweredAtOnce(t *testing.T) {
	twoVersions(t, func(t *testing.T, _, h *testNode) {
		alice := h.as(t, "alice")
		alice.sync("set_presence", "offline")
		var now vector
		if _, err := h.layout.Decode(alice.since, now[:]); err != nil {
			t.Fatal(err)
		}
		alice.since = without(h.Sync, h.Receipts.Stream().Number()).Encode(h.Process.LogEpoch(), now[:], "")
		done := make(chan struct{})
		go func() {
			defer close(done)
			alice.sync("set_presence", "offline", "timeout", "90000")
		}()
		select {
		case <-done:
		case <-time.After(80 * time.Second):
			t.Error("the answer waits for news")
		}
		<-done
	})
}

// TestTokensOfOtherFormatsBeginAnew: a valid token that this process does not understand is no error.
func TestTokensOfOtherFormatsBeginAnew(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		room := h.room(t, "alice")
		alice := h.as(t, "alice")
		h.as(t, "alice").say(room, "hello")
		body := []byte{3, 1, 2, 3, 4, 5, 6, 7, 8}
		body = binary.BigEndian.AppendUint16(body, uint16(crc32.ChecksumIEEE(body)))
		for _, token := range []string{
			"v" + base64.RawURLEncoding.EncodeToString(body),                                      // of a later version
			h.layout.Encode(h.Process.LogEpoch()+1, make([]int64, tokenSize), "\x32\x00\x01\x05"), // of before a backup was restored
		} {
			alice.since = token
			a := alice.sync()
			same(t, "messages", bodies(in(a, "join", room, "timeline.events")), "[hello]")
			same(t, "what was carried", h.carries(t, alice.since), "")
			same(t, "messages after that", bodies(in(alice.sync(), "join", room, "timeline.events")), "[]")
		}
		for _, bad := range []string{"v", "none", alice.since[:len(alice.since)-3], "t12", "v" + base64.RawURLEncoding.EncodeToString(body[1:])} {
			alice.Want(400, "GET "+api+"/sync?since="+bad, nil)
		}
	})
}

func (h *testNode) carries(t *testing.T, token string) string {
	t.Helper()
	told, err := h.layout.Decode(token, make([]int64, tokenSize))
	if err != nil {
		t.Fatal(err)
	}
	return told.Carried
}
