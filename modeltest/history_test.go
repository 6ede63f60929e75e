package modeltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
)

// fails is what rapid's T and testing's T have in common.
type fails interface {
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

type obj = map[string]any

// history is one run: processes, what clients asked of them, and what came of it.
type history struct {
	t       fails
	setting *setting
	store   store
	control *db.DB
	bus     bus.Bus
	members []*member // by slot
	graves  []*member
	clock   int
	ops     []*op
	rooms   []string
	creator map[string]string // of rooms
	broken  bool              // something else than the passing of a commit happened
	log     []any             // steps and operations, in order
	found   func(finding string)
	fates   map[dbfault.Fault]int
	journal journal

	acked  map[string]*op    // events that were acknowledged, by id
	txns   map[string]string // event id by user and transaction
	shown  map[string]string // events that were shown to a client: by whom
	reader map[string]*reader
}

// reader is a client that follows /sync.
type reader struct {
	since     string
	busy      bool
	events    map[string]bool
	toDevice  map[string]int
	unsettled map[string]bool // rooms in which the user's membership was ever changed, or whose timeline had a gap
}

// op is a request of a client.
type op struct {
	n            int
	kind, who    string
	at           *member
	target       string // METHOD /path
	body         any
	room, marker string
	txn          string      // what makes a retry the same request; "" when it is none
	subject      string      // what the last operation on it decides: a membership, a state, a presence
	check        func(o *op) // at the acknowledgement

	began   int
	ended   int // when the answer was seen
	cancel  context.CancelFunc
	done    chan struct{}
	status  int
	answer  []byte
	settled bool // the history has seen the answer
	lost    bool // the client does not get the answer
}

func (o *op) get(path string) gjson.Result { return gjson.GetBytes(o.answer, path) }

// refused tells that the answer says that nothing was changed.
func (o *op) refused() bool {
	return !o.lost && (o.status >= 400 && o.status < 500 || o.status == 503 && o.get("retry_after_ms").Exists())
}

func (o *op) String() string {
	state := "waits"
	switch {
	case o.lost:
		state = "lost"
	case o.settled:
		state = fmt.Sprint(o.status)
		if o.status >= 400 {
			state += " " + o.get("errcode").String() + " " + o.get("error").String()
		} else if id := o.get("event_id"); id.Exists() {
			state += " " + id.String()
		}
	}
	target, _ := url.PathUnescape(strings.Replace(o.target, api, "", 1))
	if o.kind == "sync" {
		target = ""
	}
	if o.kind == "state" {
		target += fmt.Sprint(o.body)
	}
	return fmt.Sprintf("#%d %s %s at %d: %s: %s", o.n, o.who, o.kind, o.at.slot, target, state)
}

func (h *history) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// fail ends the history with what happened in it.
func (h *history) fail(format string, args ...any) {
	var b strings.Builder
	for _, line := range h.log {
		fmt.Fprintf(&b, "\n  %v", line)
	}
	b.WriteString("\nlog:\n  " + h.journal.String())
	b.WriteString("\nat " + time.Now().Format("05.000") + " there is to do:\n  " + strings.Join(h.unfinished(), "\n  "))
	out := fmt.Sprintf("%s\nhistory:%s", fmt.Sprintf(format, args...), b.String())
	for i, room := range h.rooms { // ids are long and differ from run to run
		out = strings.ReplaceAll(out, room, fmt.Sprint("R", i))
	}
	h.found(out)
	h.t.Fatalf("%s", out)
}

// unfinished is what waits for consumers and jobs, and where these are.
func (h *history) unfinished() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := db.Texts(h.control.Query(ctx, `SELECT 'news of ' || user_id || ': ' || kind || ' at ' || shard || '/' || pos FROM account_news
		UNION ALL SELECT 'a row of ' || consumer || ' of ' || key || ' at ' || shard || '/' || pos || ', tried ' || tries ||
			' times, next at ' || next_ms || ': ' || reason FROM parked_rows
		UNION ALL SELECT 'an old profile of ' || user_id || ' in ' || place FROM old_profiles
		UNION ALL SELECT 'the name of ' || user_id || ': ' || value FROM profile_fields WHERE name = 'displayname'
		UNION ALL SELECT 'lease ' || name || ' of ' || machine || ', epoch ' || epoch || ', at ' || pos FROM leases
			WHERE name LIKE '%accounts%' OR name LIKE 'job/%' OR name LIKE '%sessions%'`))
	if err != nil {
		return []string{err.Error()}
	}
	members, err := db.List(func(row db.Row) (member string, err error) {
		var event string
		err = row.Scan(&member, &event)
		return member + gjson.Get(event, "content").Raw, err
	})(h.control.Query(ctx, "SELECT 'a membership of ' || m.user_id || ' in ' || m.room_id || ' at ' || e.shard || '/' || e.pos || ': ', "+
		"e.json FROM memberships m JOIN events e ON e.event_id = m.event_id"))
	if err != nil {
		return append(list, err.Error())
	}
	return append(list, members...)
}

func (h *history) must(err error, what string) {
	if err != nil {
		h.fail("%s: %v", what, err)
	}
}

// begin makes processes, rooms and members.
func begin(t fails, s store, sh *setting, found func(string)) *history {
	h := &history{
		t: t, found: found, setting: sh, store: s, bus: bus.NewLocal(), acked: map[string]*op{}, txns: map[string]string{},
		shown:   map[string]string{},
		creator: map[string]string{}, fates: map[dbfault.Fault]int{}, reader: map[string]*reader{},
	}
	for _, u := range users {
		h.reader[u] = &reader{events: map[string]bool{}, toDevice: map[string]int{}, unsettled: map[string]bool{}}
	}
	ctx := context.Background()
	var err error
	h.control, err = s.fresh(ctx)
	h.must(err, "empty the database")
	for slot := range sh.processes {
		h.members = append(h.members, nil)
		h.join(slot)
	}
	h.until("the processes own the shards", func() bool {
		for _, m := range h.members {
			owned, all := m.owns()
			if owned < all/len(h.members)-len(m.process.Streams.All()) || owned == 0 {
				return false
			}
		}
		return h.owned()
	})
	for range 2 {
		h.now(h.create("alice", h.members[0]), 200)
	}
	for i, room := range h.rooms {
		for _, who := range []string{"bob", "carol"} {
			h.now(h.member(who, "join", room, who, h.members[i%len(h.members)]), 200)
			h.reader[who].unsettled[room] = false
		}
	}
	for _, m := range h.members {
		h.shut(m)
	}
	return h
}

// shut makes the commits of a process wait for their fates, where the setting wants it.
func (h *history) shut(m *member) {
	if !h.setting.open {
		m.Shut()
	}
}

// owned tells whether each shard has one owner.
func (h *history) owned() bool {
	for i, st := range h.members[0].process.Streams.All() {
		for shard := range st.Shards() {
			n := 0
			for _, m := range h.live() {
				if m.process.Streams.All()[i].Owns(shard) {
					n++
				}
			}
			if n != 1 {
				return false
			}
		}
	}
	return true
}

func (h *history) until(what string, ok func() bool) {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.fail("waited in vain: %s", what)
		}
	}
}

// soon waits a while for what may happen or not.
func (h *history) soon(ok func() bool) {
	for deadline := time.Now().Add(200 * time.Millisecond); !ok() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// answered waits a little for an answer.
func (h *history) answered(o *op) {
	select {
	case <-o.done:
	case <-time.After(200 * time.Millisecond):
	}
	h.poll()
}

// patience is how long anything may take once nothing is broken any more.
const patience = 10 * time.Second

func (h *history) live() []*member {
	return slices.DeleteFunc(slices.Clone(h.members), func(m *member) bool { return m == nil })
}

// join starts a process in an empty slot.
func (h *history) join(slot int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := join(ctx, h.store, h.bus, h.setting.limits, h.setting.processes == 1, slot, &h.journal)
	h.must(err, fmt.Sprint("start process ", slot))
	h.members[slot] = m
	// A process whose database goes away while it starts ends with an error; that is no part of the histories.
	h.until(fmt.Sprint("process ", slot, " has started"), func() bool {
		owned, all := m.owns()
		return owned == all || h.setting.processes > 1 && !m.process.Leases.Self().Starting
	})
}

// close takes everything down, whatever state it is in.
func (h *history) close() {
	for _, o := range h.ops {
		o.cancel()
	}
	for _, m := range h.live() {
		m.thaw()
		m.kill()
	}
	if h.control != nil {
		_ = h.control.Close()
	}
	_ = h.bus.Close()
}

// start begins an operation; it goes on until it ends by itself.
func (h *history) start(o *op) *op {
	h.clock++
	o.n, o.began, o.done = len(h.ops), h.clock, make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	o.cancel = cancel
	h.ops, h.log = append(h.ops, o), append(h.log, o)
	method, path, _ := strings.Cut(o.target, " ")
	text, err := json.Marshal(o.body)
	h.must(err, "encode a request")
	handler := o.at.handler
	go func() {
		defer close(o.done)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(text))
		r.Header.Set("Authorization", "Bearer "+o.who)
		w := httptest.NewRecorder()
		defer func() {
			if fault := recover(); fault == nil { //nolint:errorlint // net/http cuts the connection for this very value
				o.status, o.answer = w.Code, w.Body.Bytes()
			} else if fault != http.ErrAbortHandler {
				panic(fault)
			}
		}()
		handler.ServeHTTP(w, r)
	}()
	return o
}

// now does an operation and demands its answer.
func (h *history) now(o *op, status int) *op {
	h.await(o)
	if o.status != status {
		h.fail("%v, expected status %d", o, status)
	}
	return o
}

func (h *history) await(o *op) {
	select {
	case <-o.done:
		h.poll()
	case <-time.After(patience):
		h.fail("%v still, %s after it began and the last fault ended", o, patience)
	}
}

// away lets the client of an operation go: it does not get the answer.
func (h *history) away(o *op) {
	o.lost = true
	if o.kind == "sync" {
		h.reader[o.who].busy = false
	}
	o.cancel()
}

// lose lets go all clients that wait for a process.
func (h *history) lose(m *member) {
	for _, o := range h.ops {
		if o.at == m && !o.settled && !o.lost {
			h.away(o)
		}
	}
}

// drain waits for a while for what a process was asked, as its listener does before it ends.
func (h *history) drain(m *member) {
	m.recover()
	end := time.After(2 * time.Second)
	for _, o := range h.ops {
		if o.at == m && !o.settled && !o.lost {
			select {
			case <-o.done:
			case <-end:
				h.poll()
				h.lose(m)
				return
			}
		}
	}
	h.poll()
}

// settle waits until the newest operation has ended or all stands still.
func (h *history) settle() {
	last := make(<-chan struct{})
	if n := len(h.ops); n > 0 && !h.ops[n-1].settled {
		last = h.ops[n-1].done
	}
	still, before := 0, int64(-1)
	for deadline := time.Now().Add(25 * time.Millisecond); still < 3 && time.Now().Before(deadline); {
		select {
		case <-last:
			still = 3
		case <-time.After(700 * time.Microsecond):
			busy, sum := int64(0), int64(0)
			for _, m := range h.live() {
				active, counter := m.Traffic()
				if !m.frozen {
					busy += active
				}
				sum += counter
			}
			if still++; busy > 0 || sum != before {
				still = 0
			}
			before = sum
		}
	}
	h.poll()
}

// poll takes in the answers that came.
func (h *history) poll() {
	for _, o := range h.ops {
		if o.settled || o.lost {
			continue
		}
		select {
		case <-o.done:
		default:
			continue
		}
		h.clock++
		o.settled, o.ended = true, h.clock
		if o.kind == "sync" {
			h.reader[o.who].busy = false
		}
		if o.status >= 500 && !h.broken && !o.refused() && !h.setting.known.busyOverWire {
			h.fail("%v, though nothing was broken", o)
		}
		if o.status == 200 {
			h.acknowledged(o)
		}
	}
	for _, m := range h.live() {
		select {
		case <-m.ended:
			h.fail("the process of slot %d ended by itself: %v", m.slot, m.err)
		default:
		}
	}
}

// acknowledged checks what an answer promises.
func (h *history) acknowledged(o *op) {
	if id := o.get("event_id").String(); id != "" {
		h.acked[id] = o
		if n := h.count("SELECT count(*) FROM events WHERE event_id = $1", id); n != 1 {
			h.fail("%v: acknowledged and stored %d times", o, n)
		}
		if o.txn != "" {
			if before := h.txns[o.txn]; before != "" && before != id {
				h.fail("%v: the same transaction was event %s before", o, before)
			}
			h.txns[o.txn] = id
		}
	}
	if o.check != nil {
		o.check(o)
	}
}

func (h *history) count(query string, args ...any) (n int) {
	h.must(h.control.QueryRow(context.Background(), query, args...).Scan(&n), query)
	return n
}

// alone tells that no other operation on the same subject was begun since this one, nor was under way.
func (h *history) alone(o *op) bool { return h.undisturbed(o, o.subject) }

// undisturbed is alone for another subject than the operation's own.
func (h *history) undisturbed(o *op, subject string) bool {
	return !slices.ContainsFunc(h.ops, func(other *op) bool {
		return other != o && other.subject == subject && (!other.settled || other.ended > o.began)
	})
}

const api = "/_matrix/client/v3"

func path(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return api + "/" + strings.Join(parts, "/")
}

func (h *history) marker() string { return fmt.Sprintf("op-%d-", len(h.ops)) }

func (h *history) say(who, room string, at *member) *op {
	m := h.marker()
	return h.start(&op{
		kind: "send", who: who, at: at, room: room, marker: m, txn: who + " " + m,
		target: "PUT " + path("rooms", room, "send", "m.room.message", m), body: obj{"msgtype": "m.text", "body": m},
	})
}

// again repeats a request with a transaction id.
func (h *history) again(o *op, at *member) *op {
	return h.start(
		&op{
			kind:   "retry of #" + fmt.Sprint(o.n) + ",",
			who:    o.who,
			at:     at,
			room:   o.room,
			marker: o.marker,
			txn:    o.txn,
			target: o.target,
			body:   o.body,
			check:  o.check,
		},
	)
}

func (h *history) state(who, room, key, value string, at *member) *op {
	return h.start(
		&op{kind: "state", who: who, at: at, room: room, target: "PUT " + path("rooms", room, "state", "test.state", key), body: obj{"v": value}},
	)
}

func (h *history) topic(who, room string, at *member) *op {
	m := h.marker()
	return h.start(
		&op{
			kind:   "topic",
			who:    who,
			at:     at,
			room:   room,
			marker: m,
			target: "PUT " + path("rooms", room, "state", "m.room.topic", ""),
			body:   obj{"topic": m},
		},
	)
}

func (h *history) redact(who, room, event string, at *member) *op {
	m := h.marker()
	return h.start(&op{
		kind: "redact", who: who, at: at, room: room, marker: m, txn: who + " " + m,
		target: "PUT " + path("rooms", room, "redact", event, m), body: obj{"reason": m},
	})
}

func (h *history) create(who string, at *member) *op {
	m := h.marker()
	return h.start(
		&op{
			kind:   "create",
			who:    who,
			at:     at,
			marker: m,
			target: "POST " + path("createRoom"),
			body:   obj{"preset": "public_chat", "name": m},
			check: func(o *op) {
				o.room = o.get("room_id").String()
				if n := h.count("SELECT count(*) FROM events WHERE room_id = $1 AND type = 'm.room.name'", o.room); n != 1 {
					h.fail("%v: room %s was acknowledged and its name is stored %d times", o, o.room, n)
				}
				h.rooms, h.creator[o.room] = append(h.rooms, o.room), who
				for _, u := range users {
					h.reader[u].unsettled[o.room] = u != who
				}
			},
		},
	)
}

// memberships that the operations lead to.
var memberships = map[string]string{"join": "join", "leave": "leave", "kick": "leave", "ban": "ban", "unban": "leave", "invite": "invite"}

// member changes a membership.
func (h *history) member(who, what, room, target string, at *member) *op {
	body := obj{}
	if target != who {
		body["user_id"] = userID(target)
	}
	h.reader[target].unsettled[room] = true
	return h.start(&op{
		kind: what, who: who, at: at, room: room, target: "POST " + path("rooms", room, what), body: body, subject: room + " " + target,
		check: func(o *op) {
			if !h.alone(o) {
				return
			}
			var is string
			h.must(
				h.control.QueryRow(context.Background(), "SELECT membership FROM memberships WHERE room_id = $1 "+
					"AND user_id = $2", room, userID(target)).
					Scan(&is),
				"read a membership",
			)
			if is != memberships[what] {
				h.fail("%v: acknowledged, and the membership of %s is %s", o, target, is)
			}
		},
	})
}

func (h *history) receipt(who, room, event string, at *member) *op {
	return h.start(&op{
		kind: "receipt", who: who, at: at, room: room, target: "POST " + path("rooms", room, "receipt", "m.read", event), body: obj{},
		check: func(o *op) {
			n := h.count(
				`SELECT count(*) FROM receipts r JOIN events e ON e.event_id = $3 WHERE r.room_id = $1 AND r.user_id = $2 AND r.type = 'm.read'
				AND r.thread_id = '' AND r.event_pos >= e.pos`,
				room,
				userID(who),
				event,
			)
			if n != 1 {
				h.fail("%v: acknowledged, and no receipt at this event or a later one is stored", o)
			}
		},
	})
}

func (h *history) typing(who, room string, on bool, at *member) *op {
	return h.start(&op{
		kind: "typing", who: who, at: at, room: room, subject: "typing " + room + " " + who,
		target: "PUT " + path("rooms", room, "typing", userID(who)), body: obj{"typing": on, "timeout": 60000},
		check: func(o *op) {
			// Who leaves stops typing.
			if !h.alone(o) || on && !h.undisturbed(o, room+" "+who) {
				return
			}
			list, err := db.Texts(h.control.Query(context.Background(), "SELECT users FROM typing WHERE room_id = $1", room))
			h.must(err, "read who types")
			if is := len(list) > 0 && strings.Contains(list[0], userID(who)); is != on {
				h.fail("%v: acknowledged, and stored is that %s types: %v", o, who, is)
			}
		},
	})
}

func (h *history) presence(who, state string, at *member) *op {
	m := h.marker()
	return h.start(&op{
		kind: "presence", who: who, at: at, subject: "presence " + who, marker: m,
		target: "PUT " + path("presence", userID(who), "status"), body: obj{"presence": state, "status_msg": m},
		check: func(o *op) {
			if !h.alone(o) {
				return
			}
			list, err := db.Texts(h.control.Query(context.Background(), "SELECT status_msg FROM presence WHERE user_id = $1", userID(who)))
			h.must(err, "read a presence")
			if len(list) != 1 || list[0] != m {
				h.fail("%v: acknowledged, and stored is the message %q", o, list)
			}
		},
	})
}

func (h *history) profile(who string, at *member) *op {
	m := fmt.Sprint("name ", len(h.ops)) // no marker: it comes to each room
	return h.start(&op{
		kind: "profile", who: who, at: at, subject: "profile " + who,
		target: "PUT " + path("profile", userID(who), "displayname"), body: obj{"displayname": m},
		check: func(o *op) {
			if name := h.name(who); h.alone(o) && name != m {
				h.fail("%v: acknowledged, and stored is the name %q", o, name)
			}
		},
	})
}

// name is the stored one of a user, "" for none.
func (h *history) name(who string) string {
	list, err := db.Texts(
		h.control.Query(context.Background(), "SELECT value FROM profile_fields WHERE user_id = $1 AND name = 'displayname'", userID(who)),
	)
	h.must(err, "read a profile")
	return gjson.Parse(strings.Join(list, "")).String()
}

// spread holds that the rooms of a user come to show the stored name, which a request whose client went away may still change.
func (h *history) spread(who string) {
	h.until("the rooms of "+who+" show the stored name", func() bool {
		list, err := db.Texts(
			h.control.Query(
				context.Background(),
				"SELECT e.json FROM memberships m JOIN events e ON e.event_id = m.event_id WHERE m.user_id = $1 AND m.membership = 'join'",
				userID(who),
			),
		)
		h.must(err, "read memberships")
		name := h.name(who)
		return !slices.ContainsFunc(list, func(text string) bool { return gjson.Get(text, "content.displayname").String() != name })
	})
}

func (h *history) toDevice(who, to string, at *member) *op {
	m := h.marker()
	return h.start(&op{
		kind: "toDevice", who: who, at: at, marker: m, txn: who + " " + m,
		target: "PUT " + path("sendToDevice", "test.message", m), body: obj{"messages": obj{userID(to): obj{deviceID(to): obj{"m": m}}}},
		check: func(o *op) {
			n := h.count("SELECT count(*) FROM to_device WHERE user_id = $1 AND content LIKE $2", userID(to), "%"+m+"%")
			if n > 1 || n == 0 && h.reader[to].toDevice[m] == 0 && !h.reader[to].busy {
				h.fail("%v: acknowledged and stored %d times, not delivered yet", o, n)
			}
		},
	})
}

// sync asks for what is new to a user; nil while the user's client waits for an answer.
func (h *history) sync(who string, at *member) *op {
	r := h.reader[who]
	if r.busy {
		return nil
	}
	r.busy = true
	q := url.Values{"timeout": {"0"}, "set_presence": {"offline"}, "filter": {`{"room":{"timeline":{"limit":100}}}`}}
	if r.since != "" {
		q.Set("since", r.since)
	}
	must := h.mustSee(who)
	sent := maps.Clone(r.toDevice)
	return h.start(&op{kind: "sync", who: who, at: at, target: "GET " + path("sync") + "?" + q.Encode(), check: func(o *op) {
		r.since = o.get("next_batch").String()
		o.get("rooms.join").ForEach(func(room, v gjson.Result) bool {
			if v.Get("timeline.limited").Bool() {
				r.unsettled[room.String()] = true
			}
			for _, list := range []string{"timeline.events", "state.events"} {
				for _, e := range v.Get(list).Array() {
					id := e.Get("event_id").String()
					r.events[id], h.shown[id] = true, o.String()
				}
			}
			return true
		})
		for _, e := range o.get("to_device.events").Array() {
			m := e.Get("content.m").String()
			if r.toDevice[m]++; sent[m] > 0 && q.Has("since") { // the token says that it was received
				h.fail("%v: the message %s was delivered before", o, m)
			}
		}
		for _, id := range must {
			if !r.events[id] && !r.unsettled[h.acked[id].room] {
				h.fail("%v: event %s was acknowledged before and is not shown: %s", o, id, o.answer)
			}
		}
	}})
}

// mustSee are the acknowledged events that a user has to find from now on.
func (h *history) mustSee(who string) (ids []string) {
	for id, o := range h.acked {
		if unsettled, known := h.reader[who].unsettled[o.room]; known && !unsettled {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (h *history) messages(who, room string, at *member) *op {
	must := h.mustSee(who)
	return h.start(
		&op{
			kind:   "messages",
			who:    who,
			at:     at,
			room:   room,
			target: "GET " + path("rooms", room, "messages") + "?dir=b&limit=1000",
			check: func(o *op) {
				found := map[string]bool{}
				for _, e := range o.get("chunk").Array() {
					id := e.Get("event_id").String()
					found[id], h.shown[id] = true, o.String()
				}
				for _, id := range must {
					if h.acked[id].room == room && !found[id] && !h.reader[who].unsettled[room] {
						h.fail("%v: event %s was acknowledged before and is not shown", o, id)
					}
				}
			},
		},
	)
}
