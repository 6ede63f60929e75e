package stateres

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

const (
	alice = "@alice:a" // creator
	bob   = "@bob:b"
	carol = "@carol:c"
	dave  = "@dave:d"
)

type content = map[string]any

// dag is one room whose events are added by hand to states of choice.
type dag struct {
	t      testing.TB
	v      event.Version
	room   string
	ts     int64
	events map[string]*event.Event
}

func key(typ, stateKey string) auth.Key { return auth.Key{Type: typ, StateKey: stateKey} }

var (
	power = key(event.TypePowerLevels, "")
	rules = key(event.TypeJoinRules, "")
	topic = key(event.TypeTopic, "")
)

func member(user string) auth.Key { return key(event.TypeMember, user) }

type view struct {
	d *dag
	s State
}

func (v view) Get(typ, stateKey string) *event.Event { return v.d.events[v.s[key(typ, stateKey)]] }

func (d *dag) get(id string) *event.Event { return d.events[id] }

func (d *dag) resolve(sets ...State) State {
	d.t.Helper()
	out, err := Resolve(d.v, sets, Events{Get: d.get})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// add makes a state event whose auth events are taken from s. The name gives
// its id.
func (d *dag) add(s State, name, sender string, k auth.Key, c content) *event.Event {
	d.t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		d.t.Fatal(err)
	}
	if raw, err = d.v.Canonical(raw); err != nil {
		d.t.Fatal(err)
	}
	d.ts++
	m := map[string]any{
		"type": k.Type, "state_key": k.StateKey, "sender": sender, "content": json.RawMessage(raw), "origin_server_ts": d.ts, "depth": d.ts,
		"hashes": content{}, "signatures": content{}, "prev_events": []string{}, "auth_events": []string{},
	}
	if k.Type != event.TypeCreate {
		m["prev_events"] = []string{"$p"}
		ids := []string{}
		for _, a := range auth.AuthTypes(d.v, &event.Proto{Type: k.Type, Sender: sender, StateKey: &k.StateKey, Content: raw}) {
			if id, ok := s[a]; ok {
				ids = append(ids, id)
			}
		}
		m["auth_events"] = ids
	}
	if d.room != "" {
		m["room_id"] = d.room
	}
	full, err := json.Marshal(m)
	if err != nil {
		d.t.Fatal(err)
	}
	if full, err = d.v.Canonical(full); err != nil {
		d.t.Fatal(err)
	}
	e, err := event.ParseTrusted(d.v, full, "$"+name)
	if err != nil {
		d.t.Fatal(err)
	}
	d.events[e.ID] = e
	return e
}

// send adds an event that the rules must allow, and gives the state after it.
func (d *dag) send(s State, name, sender string, k auth.Key, c content) State {
	d.t.Helper()
	e := d.add(s, name, sender, k, c)
	if err := auth.Allowed(d.v, e, view{d, s}); err != nil {
		d.t.Fatalf("%s: %v", name, err)
	}
	out := maps.Clone(s)
	out[k] = e.ID
	return out
}

func joined() content { return content{"membership": "join"} }

// newDag makes a public room with alice as joined creator.
func newDag(t testing.TB, version string) (*dag, State) {
	v, ok := event.VersionByID(version)
	if !ok {
		t.Fatal(version)
	}
	d := &dag{t: t, v: v, room: "!r:a", events: map[string]*event.Event{}}
	c := content{"room_version": version}
	if v.CreatorInContent {
		c["creator"] = alice
	}
	if v.RoomIDIsCreateHash {
		d.room = ""
	}
	create := d.add(nil, "create", alice, key(event.TypeCreate, ""), c)
	d.room = create.RoomID
	s := State{key(event.TypeCreate, ""): create.ID}
	e := d.add(s, "alice", alice, member(alice), joined())
	s[member(alice)] = e.ID
	s = d.send(s, "pl", alice, power, d.levels(content{}))
	s = d.send(s, "jr", alice, rules, content{"join_rule": "public"})
	return d, s
}

// levels is the content of power levels with the creator on top.
func (d *dag) levels(users content) content {
	u := maps.Clone(users)
	if !d.v.PrivilegedCreators {
		u[alice] = 100
	}
	return content{"users": u}
}

func eachVersion(t *testing.T, f func(t *testing.T, d *dag, s State)) {
	for n := 2; n <= 12; n++ {
		t.Run(fmt.Sprint("v", n), func(t *testing.T) {
			d, s := newDag(t, fmt.Sprint(n))
			f(t, d, s)
		})
	}
}

func want(t *testing.T, got State, entries map[auth.Key]string) {
	t.Helper()
	for k, id := range entries {
		if got[k] != id {
			t.Errorf("%v: got %q, want %q", k, got[k], id)
		}
	}
}

func TestNothingToResolve(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		for _, sets := range [][]State{{s}, {s, s, maps.Clone(s)}} {
			if diff := cmp.Diff(s, d.resolve(sets...)); diff != "" {
				t.Error(diff)
			}
		}
		if got := d.resolve(); len(got) != 0 {
			t.Error(got)
		}
	})
}

func TestBanBeatsWhatTheBannedDid(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		s = d.send(s, "bob", bob, member(bob), joined())
		s = d.send(s, "pl2", alice, power, d.levels(content{bob: 50}))
		s = d.send(s, "topic1", alice, topic, content{"topic": "1"})
		banned := d.send(s, "ban", alice, member(bob), content{"membership": "ban"})
		evading := d.send(s, "topic2", bob, topic, content{"topic": "2"})
		evading = d.send(evading, "name", bob, member(bob), content{"membership": "join", "displayname": "Bob"})
		evading = d.send(evading, "jr2", bob, rules, content{"join_rule": "invite"})
		want(t, d.resolve(banned, evading), State{member(bob): "$ban", topic: "$topic1", rules: "$jr"})
	})
}

func TestHigherPowerFirst(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		s = d.send(s, "bob", bob, member(bob), joined())
		s = d.send(s, "pl2", alice, power, d.levels(content{bob: 50}))
		// Bob is earlier, but Alice stands above him and takes his power.
		left := d.send(s, "plb", bob, power, d.levels(content{bob: 50, carol: 50}))
		right := d.send(s, "pla", alice, power, d.levels(content{bob: 0}))
		want(t, d.resolve(left, right), State{power: "$pla"})
	})
}

func TestLaterOfEqualsWins(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		left := d.send(s, "t1", alice, topic, content{"topic": "1"})
		right := d.send(s, "t2", alice, topic, content{"topic": "2"})
		want(t, d.resolve(left, right), State{topic: "$t2"})
		// With the same time the greater id wins.
		d.ts--
		third := d.send(s, "t3", alice, topic, content{"topic": "3"})
		want(t, d.resolve(left, right, third), State{topic: "$t3"})
	})
}

func TestMainlineOrder(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		after := d.send(s, "pl2", alice, power, d.levels(content{bob: 10}))
		after = d.send(after, "tnew", alice, topic, content{"topic": "new"})
		// Later by the clock, but based on the older power levels.
		before := d.send(s, "told", alice, topic, content{"topic": "old"})
		want(t, d.resolve(before, after), State{topic: "$tnew", power: "$pl2"})
	})
}

// Problem A of MSC4297: a member who joined while the room was public is
// missing in one state. Version 2 checks the join against the later join
// rules and drops the member.
func TestMSC4297JoinBeforeRuleChange(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		// Carol's join cites the old rules too, so all auth chains have them.
		s = d.send(s, "carol", carol, member(carol), joined())
		stale := d.send(s, "bob", bob, member(bob), joined())
		with := d.send(stale, "jr2", alice, rules, content{"join_rule": "invite"})
		without := maps.Clone(with)
		delete(without, member(bob))
		id := ""
		if d.v.StateRes == event.StateResV21 {
			id = "$bob"
		}
		want(t, d.resolve(with, without), State{member(bob): id, rules: "$jr2"})
	})
}

// Problem B of MSC4297: an event between two conflicted ones is in all auth
// chains, so version 2 does not replay it and falls back to the older state.
func TestMSC4297EventBetweenConflictedOnes(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		s = d.send(s, "bob", bob, member(bob), joined())
		s2 := d.send(s, "pl2", alice, power, d.levels(content{bob: 50}))
		s2 = d.send(s2, "topic", alice, topic, content{"topic": "cites pl2"})
		s3 := d.send(s2, "pl3", bob, power, d.levels(content{bob: 50, carol: 50}))
		reset := maps.Clone(s3)
		reset[power] = "$pl"
		id := "$pl"
		if d.v.StateRes == event.StateResV21 {
			id = "$pl3"
		}
		want(t, d.resolve(s3, reset), State{power: id, topic: "$topic"})
	})
}

func TestRejectedAuthEventsDoNotCount(t *testing.T) {
	eachVersion(t, func(t *testing.T, d *dag, s State) {
		with := d.send(s, "bob", bob, member(bob), joined())
		with = d.send(with, "bob2", bob, member(bob), content{"membership": "join", "displayname": "b"})
		closed := d.send(s, "jr2", alice, rules, content{"join_rule": "invite"})
		// The join of bob2 stands on the rules and the join it names; both
		// rejected, nothing lets Bob in.
		out, err := Resolve(d.v, []State{with, closed}, Events{Get: d.get, Rejected: func(id string) bool { return id == "$bob" || id == "$jr" }})
		if err != nil {
			t.Fatal(err)
		}
		want(t, out, State{member(bob): "", rules: "$jr2"})
	})
}

func TestErrors(t *testing.T) {
	d, s := newDag(t, "11")
	left := d.send(s, "t1", alice, topic, content{})
	right := d.send(s, "t2", alice, topic, content{})
	one, _ := event.VersionByID("1")
	if _, err := Resolve(one, []State{left, right}, Events{Get: d.get}); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	for _, id := range []string{"$t1", "$alice", "$create"} {
		e := d.events[id]
		delete(d.events, id)
		var missing *MissingError
		if _, err := Resolve(d.v, []State{left, right}, Events{Get: d.get}); !errors.As(err, &missing) || missing.ID != id {
			t.Errorf("without %s: %v", id, err)
		}
		d.events[id] = e
	}
}

func TestLongChain(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		d, s := newDag(t, version)
		left := d.send(s, "left", alice, topic, content{"topic": "left"})
		for i := range 20000 {
			s = d.send(s, fmt.Sprint("pl", i), alice, power, d.levels(content{bob: i % 50}))
		}
		right := d.send(s, "right", alice, topic, content{"topic": "right"})
		want(t, d.resolve(left, right), State{power: "$pl19999", topic: "$right"})
	}
}

// Event ids of room version 2 are chosen by their maker, so auth events can
// form a ring. It must end.
func TestRing(t *testing.T) {
	d, s := newDag(t, "2")
	a := d.add(State{power: "$b", key(event.TypeCreate, ""): "$create", member(alice): "$alice"}, "a", alice, power, d.levels(content{bob: 1}))
	d.add(State{power: "$a", key(event.TypeCreate, ""): "$create", member(alice): "$alice"}, "b", alice, power, d.levels(content{bob: 2}))
	left := maps.Clone(s)
	left[power] = a.ID
	right := maps.Clone(s)
	right[power] = "$b"
	right = d.send(right, "t", alice, topic, content{})
	d.resolve(left, right)
	d.resolve(s, right, left)
}

// randomRoom grows branches of a room by random acts that each branch allows,
// and gives the states of some branches, a few entries lost or stale.
func randomRoom(t testing.TB, rnd *rand.Rand, version string, acts int) (*dag, []State) {
	d, s := newDag(t, version)
	users := []string{alice, bob, carol, dave}
	branches := []State{s}
	for i := range acts {
		n := rnd.IntN(len(branches))
		s := branches[n]
		user, target := users[rnd.IntN(4)], users[rnd.IntN(4)]
		var k auth.Key
		var c content
		switch rnd.IntN(7) {
		case 0:
			k, c = member(user), joined()
		case 1:
			k, c = member(target), content{"membership": []string{"ban", "leave", "invite"}[rnd.IntN(3)]}
		case 2:
			k, c = rules, content{"join_rule": []string{"public", "invite"}[rnd.IntN(2)]}
		case 3, 4:
			levels := content{}
			for _, u := range users[1:] {
				levels[u] = rnd.IntN(3) * 50
			}
			k, c = power, d.levels(levels)
		default:
			k, c = topic, content{"topic": fmt.Sprint(i)}
		}
		name := fmt.Sprintf("x%02d", i)
		if rnd.IntN(4) == 0 {
			d.ts -= int64(rnd.IntN(5))
		}
		e := d.add(s, name, user, k, c)
		if auth.Allowed(d.v, e, view{d, s}) != nil {
			delete(d.events, e.ID)
			continue
		}
		next := maps.Clone(s)
		next[k] = e.ID
		if rnd.IntN(4) == 0 {
			branches = append(branches, next)
		} else {
			branches[n] = next
		}
	}
	sets := []State{}
	for range 2 + rnd.IntN(3) {
		set := maps.Clone(branches[rnd.IntN(len(branches))])
		for _, k := range slices.SortedFunc(maps.Keys(set), func(a, b auth.Key) int { return cmpKeys(a, b) }) {
			if k.Type == event.TypeCreate {
				continue
			}
			switch rnd.IntN(12) {
			case 0:
				delete(set, k)
			case 1:
				if other, ok := branches[rnd.IntN(len(branches))][k]; ok {
					set[k] = other
				}
			}
		}
		sets = append(sets, set)
	}
	return d, sets
}

func cmpKeys(a, b auth.Key) int {
	x, y := a.Type+"\x00"+a.StateKey, b.Type+"\x00"+b.StateKey
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		version := rapid.SampledFrom([]string{"2", "6", "10", "11", "12"}).Draw(rt, "version")
		seed := rapid.Uint64().Draw(rt, "seed")
		d, sets := randomRoom(t, rand.New(rand.NewPCG(seed, 1)), version, 40)
		first := d.resolve(sets...)
		perm := rapid.Permutation(sets).Draw(rt, "order")
		if diff := cmp.Diff(first, d.resolve(perm...)); diff != "" {
			rt.Fatal(diff)
		}
		if diff := cmp.Diff(first, d.resolve(append(perm, sets[0])...)); diff != "" {
			rt.Fatal("a state given twice changes the result: ", diff)
		}
		unconflicted, conflicted := Split(sets)
		split, err := ResolveSplit(d.v, unconflicted, conflicted, Events{Get: d.get})
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(first, split); diff != "" {
			rt.Fatal(diff)
		}
		for k, id := range unconflicted {
			if first[k] != id {
				rt.Fatalf("%v is not what all states say", k)
			}
		}
		for k, id := range first {
			if auth.KeyOf(d.events[id]) != k {
				rt.Fatalf("%s stands under %v", id, k)
			}
		}
	})
}

// The fast algorithm must find what the text of the specification says,
// written down plainly.
func TestAgainstPlainAlgorithm(t *testing.T) {
	conflicts := 0
	for _, version := range []string{"2", "7", "11", "12"} {
		for seed := range uint64(120) {
			d, sets := randomRoom(t, rand.New(rand.NewPCG(seed, 2)), version, 60)
			got := d.resolve(sets...)
			if diff := cmp.Diff(plainResolve(d, sets), got); diff != "" {
				t.Fatalf("v%s seed %d: %s", version, seed, diff)
			}
			if _, c := Split(sets); len(c[0])+len(c[1]) > 2 {
				conflicts++
			}
		}
	}
	if conflicts < 240 {
		t.Errorf("only %d of the random rooms had conflicts", conflicts)
	}
}

type idSet = map[string]bool

func (d *dag) chain(id string) idSet {
	out := idSet{}
	var visit func(string)
	visit = func(id string) {
		for _, a := range d.events[id].AuthEvents {
			if !out[a] {
				out[a] = true
				visit(a)
			}
		}
	}
	visit(id)
	return out
}

func (d *dag) authOf(id, typ string) *event.Event {
	for _, a := range d.events[id].AuthEvents {
		if d.events[a].Is(typ, "") {
			return d.events[a]
		}
	}
	return nil
}

func plainResolve(d *dag, sets []State) State {
	v21 := d.v.StateRes == event.StateResV21
	unconflicted, parts := Split(sets)
	conflicted := idSet{}
	for _, p := range parts {
		for _, id := range p {
			conflicted[id] = true
		}
	}
	full := maps.Clone(conflicted)
	count := map[string]int{}
	for _, set := range sets {
		in := idSet{}
		for _, id := range set {
			in[id] = true
			maps.Copy(in, d.chain(id))
		}
		for id := range in {
			count[id]++
		}
	}
	for id, n := range count {
		if n < len(sets) {
			full[id] = true
		}
	}
	if v21 {
		for x := range d.events {
			below := d.chain(x)
			reaches := false
			for c := range conflicted {
				reaches = reaches || below[c]
			}
			for c := range conflicted {
				if reaches && d.chain(c)[x] {
					full[x] = true
				}
			}
		}
	}
	picked := idSet{}
	var pick func(id string)
	pick = func(id string) {
		picked[id] = true
		for _, a := range d.events[id].AuthEvents {
			if full[a] && !picked[a] {
				pick(a)
			}
		}
	}
	for id := range full {
		if isPower(d.events[id]) {
			pick(id)
		}
	}
	level := func(id string) int64 {
		create := d.authOf(id, event.TypeCreate)
		if v21 {
			create = d.events["$create"]
		}
		return auth.NewPower(d.v, create, d.authOf(id, event.TypePowerLevels)).UserLevel(d.events[id].Sender)
	}
	older := func(a, b string) bool {
		if x, y := d.events[a].OriginServerTS, d.events[b].OriginServerTS; x != y {
			return x < y
		}
		return a < b
	}
	var order []string
	placed := idSet{}
	for len(order) < len(picked) {
		best := ""
		for id := range picked {
			ready := !placed[id]
			for _, a := range d.events[id].AuthEvents {
				ready = ready && (!picked[a] || placed[a])
			}
			if !ready {
				continue
			}
			if x, y := level(id), int64(0); best != "" {
				if y = level(best); x < y || x == y && !older(id, best) {
					continue
				}
			}
			best = id
		}
		placed[best] = true
		order = append(order, best)
	}
	state := State{}
	if !v21 {
		state = maps.Clone(unconflicted)
	}
	check := func(ids []string) {
		for _, id := range ids {
			e := d.events[id]
			seen := maps.Clone(state)
			for _, a := range e.AuthEvents {
				if k := auth.KeyOf(d.events[a]); seen[k] == "" {
					seen[k] = a
				}
			}
			seen[key(event.TypeCreate, "")] = "$create"
			if auth.Allowed(d.v, e, view{d, seen}) == nil {
				state[auth.KeyOf(e)] = id
			}
		}
	}
	check(order)
	mainline := map[string]int{}
	for e := d.events[state[power]]; e != nil; e = d.authOf(e.ID, event.TypePowerLevels) {
		mainline[e.ID] = len(mainline) + 1
	}
	position := func(id string) int {
		for e := d.authOf(id, event.TypePowerLevels); e != nil; e = d.authOf(e.ID, event.TypePowerLevels) {
			if p := mainline[e.ID]; p > 0 {
				return p
			}
		}
		return 1 << 30
	}
	var rest []string
	for id := range full {
		if !picked[id] {
			rest = append(rest, id)
		}
	}
	slices.SortFunc(rest, func(a, b string) int {
		if x, y := position(a), position(b); x != y {
			return y - x
		}
		if older(a, b) {
			return -1
		}
		return 1
	})
	check(rest)
	maps.Copy(state, unconflicted)
	return state
}

func BenchmarkResolve500Members(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		b.Run("v"+version, func(b *testing.B) {
			d, s := newDag(b, version)
			left, right := maps.Clone(s), maps.Clone(s)
			for i := range 500 {
				user := fmt.Sprintf("@user%d:x", i)
				left[member(user)] = d.add(s, fmt.Sprint("l", i), user, member(user), joined()).ID
				right[member(user)] = d.add(s, fmt.Sprint("r", i), user, member(user), joined()).ID
			}
			b.ReportAllocs()
			for b.Loop() {
				d.resolve(left, right)
			}
		})
	}
}
