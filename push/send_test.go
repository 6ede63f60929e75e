package push

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// slowly makes a gateway answer later; it notes requests at once.
func (g *pushGateway) slowly(by time.Duration) {
	answer := g.Config.Handler
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer.ServeHTTP(w, r)
		time.Sleep(by)
	})
}

// delayed makes a gateway take and answer requests later.
func (g *pushGateway) delayed(by time.Duration) {
	answer := g.Config.Handler
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(by)
		answer.ServeHTTP(w, r)
	})
}

// hang makes a gateway answer nothing until the returned function is called.
func (g *pushGateway) hang() (end func()) {
	answer, well := g.Config.Handler, make(chan struct{})
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // then it is seen that the client goes
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-well:
			answer.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	return func() { close(well) }
}

// pushers gives a user many pushers, without an announcement.
func (n *node) pushers(t testing.TB, who string, g *pushGateway, many int) {
	t.Helper()
	text := "x"
	for i := range many {
		body := &pusherBody{
			AppID:      "a",
			Pushkey:    fmt.Sprint(who, i),
			AppName:    &text,
			DeviceName: &text,
			Lang:       &text,
			Data:       []byte(`{"url":"` + g.URL + `/_matrix/push/v1/notify"}`),
		}
		if err := n.putPusher(t.Context(), n.People[who], body); err != nil {
			t.Fatal(err)
		}
	}
}

// outboxRows counts the rows of the outbox.
func (n *node) outboxRows(t testing.TB) (rows int) {
	t.Helper()
	if err := n.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM push_outbox").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// toTell returns the deliveries of an event that the consumer has worked through already.
func (n *node) toTell(t testing.TB, eventID string) []*delivery {
	t.Helper()
	row := n.rowOf(t, eventID)
	list, _, err := n.collect(t.Context(), row.Shard, []stream.Row{row})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestASlowGatewayGetsNothingTwice: also one that answers after a time at which other servers would give up.
func TestASlowGatewayGetsNothingTwice(t *testing.T) {
	t.Parallel()
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		g.slowly(12 * time.Second)
		n.pusher(t, "bob", g.URL, "b", obj{})
		id := n.Say(t, "alice", n.Room(t, "alice", "bob"), "hello")
		deadline := time.Now().Add(time.Minute)
		for n.outboxRows(t) > 0 || func() bool { _, times := g.find(id); return times == 0 }() {
			if time.Now().After(deadline) {
				t.Fatal("the notification is still in the outbox")
			}
			time.Sleep(50 * time.Millisecond)
		}
		if _, times := g.find(id); times != 1 {
			t.Errorf("found it %d times", times)
		}
	})
}

// TestWhatWasRefusedIsTriedAgainSoon: after one second, and then after two.
func TestWhatWasRefusedIsTriedAgainSoon(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		g.delayed(100 * time.Millisecond) // the outbox is looked at before it refuses
		n.pusher(t, "bob", g.URL, "k", obj{})
		room := n.Room(t, "alice", "bob")
		g.mu.Lock()
		g.fail = 2
		g.mu.Unlock()
		began, event := time.Now(), n.Say(t, "alice", room, "x")
		roletest.Until(t, "bob is told", func() bool { _, times := g.find(event); return times > 0 })
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("expected about 4 s, found %s", took)
		}
	})
}

// TestALongOutboxHoldsUpNobodyElse: a gateway that never answers has many rows, and another pusher of the user failed.
func TestALongOutboxHoldsUpNobodyElse(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const rows = 3000
		well, ill := newPushGateway(t), newPushGateway(t)
		ill.hang()
		room := n.Room(t, "alice", "bob", "carol")
		n.pusher(t, "bob", well.URL, "good", obj{})
		event := n.Say(t, "alice", room, "the gateway is known")
		roletest.Until(t, "bob is told", func() bool { _, times := well.find(event); return times > 0 })
		n.pushers(t, "carol", ill, 30)
		shard, now := n.events.Shard(room), n.Now().UnixMilli()
		var values [][]any
		for i := range rows {
			values = append(values, []any{"@carol:here.test", "a", fmt.Sprint("carol", i%30), fmt.Sprint("$", i), shard, now, now, 1})
		}
		n.slots.sendFailed(&sendTo("@carol:here.test", ill.URL, "").slot, n.Now())
		if err := n.Process.DB.Write(t.Context(), func(w *db.Batch) error { w.Rows(outboxRows, values); return nil }); err != nil {
			t.Fatal(err)
		}
		n.sender.setDue(shard, now)
		for i := range 3 {
			n.slots.sendFailed(&sendTo("@bob:here.test", "another", "").slot, n.Now())
			began, event := time.Now(), n.Say(t, "alice", room, fmt.Sprint(i))
			roletest.Until(t, "bob is told", func() bool { _, times := well.find(event); return times > 0 })
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("bob waited for %s", took)
			}
		}
		roletest.Until(t, "most rows are put off for long", func() bool {
			var late int
			err := n.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM push_outbox WHERE next_ms > $1", n.Now().Add(6*time.Second).UnixMilli()).
				Scan(&late)
			return err == nil && late > rows/2
		})
	})
}

// TestALargeEventIsStoredInParts before anything is sent, and comes once.
func TestALargeEventIsStoredInParts(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		well := g.hang()
		room := n.Room(t, "alice", "bob", "carol")
		small, large := n.Say(t, "alice", room, "to carol"), n.Say(t, "alice", room, "to all")
		n.worked(t)
		n.maxBatch = 10
		n.pushers(t, "bob", g, 5)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		work := func(events ...string) (rows []stream.Row, commit func(w *db.Batch)) {
			t.Helper()
			for _, e := range events {
				rows = append(rows, n.rowOf(t, e))
			}
			commit, err := n.sendBatch(ctx, rows[0].Shard, rows)
			if err != nil {
				t.Fatal(err)
			}
			return rows, commit
		}
		_, commit := work(small, large)
		if before := n.outboxRows(t); before != 0 {
			t.Errorf("ten fit in one step: expected that nothing is stored before it, found %d", before)
		}
		n.pushers(t, "carol", g, 20)
		_, second := work(large)
		if before := n.outboxRows(t); before != 25 || second != nil {
			t.Errorf("expected that 25 are stored, and nothing is left for the step, found %d and %t", before, second != nil)
		}
		if err := n.Process.DB.Write(t.Context(), func(w *db.Batch) error { commit(w); return nil }); err != nil {
			t.Fatal(err)
		}
		well()
		roletest.Until(t, "nothing waits", func() bool { return n.outboxRows(t) == 0 })
		if _, times := g.find(large); times != 25 {
			t.Errorf("expected that 25 come, found %d", times)
		}
	})
}

// TestASlowCountSaysNothingOfTheGateway: the time for preparing a request does not count as the gateway's.
func TestASlowCountSaysNothingOfTheGateway(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		n.pusher(t, "bob", g.URL, "k", obj{})
		room := n.Room(t, "alice", "bob", "carol")
		first := n.Say(t, "alice", room, "the gateway is known")
		roletest.Until(t, "bob is told", func() bool { _, times := g.find(first); return times == 1 })
		_, e := n.userCount("@bob:here.test", room)
		e.evaluating.Lock() // the count of this user takes long
		event := n.Say(t, "alice", room, "x")
		roletest.Until(t, "it is in the outbox", func() bool { return n.outboxRows(t) == 1 })
		at := &sendTo("@carol:here.test", g.URL, "").slot
		n.slots.mu.Lock()
		found := n.slots.trustOf(at, n.Now())
		n.slots.mu.Unlock()
		e.evaluating.Unlock()
		if found != trusted {
			t.Errorf("found %d for carol", found)
		}
		roletest.Until(t, "bob is told", func() bool { _, times := g.find(event); return times == 1 })
		roletest.Until(t, "nothing waits", func() bool { return n.outboxRows(t) == 0 })
		n.gateway.client.CloseIdleConnections()
		g.Close()
		n.Say(t, "alice", room, "what fails does")
		roletest.Until(t, "the gateway is in doubt", func() bool {
			n.slots.mu.Lock()
			defer n.slots.mu.Unlock()
			return n.slots.trustOf(at, n.Now()) == suspectGateway
		})
	})
}

// TestAGracefulEndSendsNothingTwice of what gateways take within endWithin.
func TestAGracefulEndSendsNothingTwice(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		g := newPushGateway(t)
		g.slowly(400 * time.Millisecond)
		var ids, said []string
		for range 16 {
			ids = append(ids, one.Room(t, "alice", "bob"))
		}
		one.pusher(t, "bob", g.URL, "k", obj{})
		for _, p := range []*node{one, two} {
			p.slots.sendPrompt(&sendTo("@bob:here.test", g.URL, "").slot)
		}
		for _, room := range ids {
			said = append(said, one.Say(t, "alice", room, "x"))
		}
		roletest.Until(t, "some came", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return len(g.got) >= 8 })
		stopTwo()
		roletest.Until(t, "all came", func() bool {
			return !slices.ContainsFunc(said, func(event string) bool { _, times := g.find(event); return times == 0 })
		})
		roletest.Until(t, "nothing waits", func() bool { return one.outboxRows(t) == 0 })
		one.worked(t)
		for i, event := range said {
			if _, times := g.find(event); times != 1 {
				t.Errorf("event %d came %d times", i, times)
			}
		}
	})
}

// TestWhoGetsAShardReadsItsOutbox: also a process that had the shard before, when the outbox was empty.
func TestWhoGetsAShardReadsItsOutbox(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		g := newPushGateway(t)
		ofTwo := func(room string) bool {
			h, held := one.Process.Leases.Holder(fmt.Sprintf("consumer/push/%04d", one.events.Shard(room)))
			return held && h.Machine == two.Process.Machine()
		}
		room := one.Room(t, "alice", "bob")
		for tries := 0; tries < 50 && !ofTwo(room); tries++ {
			room = one.Room(t, "alice", "bob")
		}
		event, shard := one.Say(t, "alice", room, "x"), one.events.Shard(room)
		one.worked(t)
		one.pushers(t, "bob", g, 1)
		two.slots.close() // it sends nothing more
		now := one.Now().UnixMilli()
		row := []any{"@bob:here.test", "a", "bob0", event, shard, now, now, 1}
		if err := one.Process.DB.Write(t.Context(), func(w *db.Batch) error { w.Rows(outboxRows, [][]any{row}); return nil }); err != nil {
			t.Fatal(err)
		}
		one.sender.outboxDue[shard].Store(one.Now().Add(outboxCheckEvery).UnixMilli())
		stopTwo()
		roletest.Until(t, "bob is told", func() bool { _, times := g.find(event); return times == 1 })
	})
}

// TestABatchThatComesAgainWaitsForSendsInFlight, and does not send them again.
func TestABatchThatComesAgainWaitsForSendsInFlight(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob")
		event := n.Say(t, "alice", room, "x")
		n.worked(t)
		g.slowly(200 * time.Millisecond)
		n.pushers(t, "bob", g, 1)
		if err := n.checkPushers(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if kept := n.send(ended, n.toTell(t, event), n.sender.changed.Load()); len(kept) != 1 {
			t.Errorf("a worker that ends: expected that it keeps what it began, found %d", len(kept))
		}
		if kept := n.send(t.Context(), n.toTell(t, event), n.sender.changed.Load()); len(kept) != 0 {
			t.Errorf("the next one: expected that nothing is left, found %d", len(kept))
		}
		if _, times := g.find(event); times != 1 {
			t.Errorf("found %d", times)
		}
	})
}

// TestAnOutcomeIsStoredWhenTheDatabaseIsBack: storing how a send ended is tried again.
func TestAnOutcomeIsStoredWhenTheDatabaseIsBack(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		d := sendTo("@bob:here.test", "well", "$e")
		d.notification.pusher = &pusher{UserID: "@bob:here.test"}
		k, far := d.slot.key, n.Now().Add(time.Hour).UnixMilli()
		do := func(query string, args ...any) {
			t.Helper()
			if _, err := n.Process.DB.Exec(t.Context(), query, args...); err != nil {
				t.Fatal(err)
			}
		}
		do(
			"INSERT INTO push_outbox (user_id, app_id, pushkey, event_id, shard, made_ms, next_ms, tries) VALUES ($1, $2, $3, $4, 0, $5, $5, 0)",
			k.user, k.app, k.pushkey, k.event, far,
		)
		do("ALTER TABLE push_outbox RENAME TO away")
		if _, err := n.tryStoreResult(d, nil); err == nil {
			t.Fatal("expected an error")
		}
		settled := make(chan struct{})
		go func() {
			n.storeSendResult(d, nil)
			close(settled)
		}()
		time.Sleep(100 * time.Millisecond)
		do("ALTER TABLE away RENAME TO push_outbox")
		<-settled
		if rows := n.outboxRows(t); rows != 0 {
			t.Errorf("found %d rows", rows)
		}
	})
}

// TestAQueueAsksForOneSlot: when a gateway has no slot, the other notifications of its queue do not ask for one.
func TestAQueueAsksForOneSlot(t *testing.T) {
	p := &Push{Deps: Deps{Now: time.Now}}
	p.slots.init()
	p.slots.fill(each("user"), only("busy"), false, time.Now())
	var s sendStep
	var all []*delivery
	for i := range 100 {
		all = append(all, sendTo(fmt.Sprint("waiting", i), "busy", "e"))
	}
	s.enqueue(all)
	p.startQueued(&s)
	asked := 0
	for _, d := range all {
		if d.slot.exhausted != "" {
			asked++
		}
	}
	if asked != 1 || len(s.queues) != 1 || !slices.Equal(s.queues[0].list, all) {
		t.Errorf("expected that one is asked for and all wait, found %d and %d gateways", asked, len(s.queues))
	}
}

// TestABatchWaitsNoLongerThanAMoment: when no send succeeds for the time slowAfter, the batch ends, whatever else happens.
func TestABatchWaitsNoLongerThanAMoment(t *testing.T) {
	past, events := make(chan time.Time, 1), make(chan struct{})
	close(events)
	for range 100 { // both are there
		past <- time.Time{}
		w := sendWait{sent: new(atomic.Int64), timer: &time.Timer{C: past}, end: time.Now().Add(time.Hour)}
		if w.wait(t.Context(), events); !w.expired {
			t.Fatal("an event made it wait longer")
		}
	}
	w := sendWait{sent: new(atomic.Int64), timer: time.NewTimer(0), end: time.Now().Add(time.Hour)}
	w.sent.Add(1)
	began := time.Now()
	if w.wait(t.Context(), nil); time.Since(began) < slowAfter {
		t.Error("it does not go on though something was sent")
	}
	w = sendWait{sent: w.sent, timer: time.NewTimer(0)}
	if w.wait(t.Context(), nil); !w.expired {
		t.Error("it goes on for ever")
	}
}

// TestABurstIsSentWithoutTheOutbox while gateways take it slowAfter, whatever number of events and receivers it has.
func TestABurstIsSentWithoutTheOutbox(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob", "carol")
		n.pushers(t, "bob", g, 20)
		n.pushers(t, "carol", g, 20)
		first := n.Say(t, "alice", room, "the gateway is known")
		roletest.Until(t, "they are told", func() bool { _, times := g.find(first); return times == 40 })
		n.worked(t)
		n.maxBatch = 100
		var rows []stream.Row
		var events []string
		for i := range 30 { // 1,200 notifications in twelve and more steps
			e := n.Say(t, "alice", room, fmt.Sprint("burst ", i))
			events, rows = append(events, e), append(rows, n.rowOf(t, e))
		}
		n.worked(t)
		before := map[string]int{}
		for _, e := range events {
			_, before[e] = g.find(e)
		}
		if _, err := n.sendBatch(t.Context(), rows[0].Shard, rows); err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if _, times := g.find(e); times != before[e]+40 {
				t.Errorf("expected that 40 come of each, found %d", times-before[e])
			}
		}
		if kept := n.outboxRows(t); kept != 0 {
			t.Errorf("%d were stored though the gateway is prompt", kept)
		}
	})
}

// TestWhenTheOutboxIsRead: also after the clock was put back, and when another process had the shard.
func TestWhenTheOutboxIsRead(t *testing.T) {
	var w senderState
	now := time.Now()
	w.outboxDue[3].Store(now.Add(outboxCheckEvery).UnixMilli())
	for _, c := range []struct {
		what string
		at   time.Time
		due  bool
	}{{"now", now, false}, {"later", now.Add(outboxCheckEvery), true}, {"put back", now.Add(-time.Hour), true}} {
		if due := w.isDue(3, c.at); due != c.due {
			t.Errorf("%s: found %t", c.what, due)
		}
	}
	if w.onAssigned(3); !w.isDue(3, now) {
		t.Error("another process had the shard, and it is not looked at")
	}
}

// TestAPusherThatIsRemovedMeanwhileGetsNothing, also when another process removes it.
func TestAPusherThatIsRemovedMeanwhileGetsNothing(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob")
		event := n.Say(t, "alice", room, "x")
		n.worked(t)
		n.pushers(t, "bob", g, 1)
		if err := n.checkPushers(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen, list := n.sender.changed.Load(), n.toTell(t, event)
		busy := n.slots.fill(each("user"), only(g.URL), false, n.Now())
		kept := make(chan []outboxEntry)
		go func() { kept <- n.send(t.Context(), list, seen) }()
		if err := n.deletePusher(t.Context(), "@bob:here.test", "a", "bob0"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * checkPushersEvery)
		n.releaseAll(busy)
		if left := <-kept; len(left) != 1 {
			t.Errorf("expected that it is left to the outbox, found %d", len(left))
		}
		if _, times := g.find(event); times != 0 {
			t.Errorf("it was told %d times", times)
		}
	})
}

// TestALateRejectionEndsNoNewerPusher: a gateway rejects a pushkey for the pusher that it was sent for. A pusher that was replaced
// since stays, with its rows of the outbox, and gets the notification that was rejected.
func TestALateRejectionEndsNoNewerPusher(t *testing.T) {
	for _, c := range []struct {
		name    string
		gateway bool // the pusher is set anew with another gateway
		data    bool // or with other data
		same    bool // or just as it was
		stays   int
	}{
		{name: "set with another gateway", gateway: true, stays: 1},
		{name: "set with other data", data: true, stays: 1},
		{name: "set as it was", same: true, stays: 1},
		{name: "not set anew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.Run(t, func(t *testing.T, n *node) {
				const user, key = "@bob:here.test", "bob0"
				before, after := newPushGateway(t), newPushGateway(t)
				set := func(at *pushGateway, more string) error {
					text := "x"
					return n.putPusher(t.Context(), n.People["bob"], &pusherBody{
						AppID: "a", Pushkey: key, AppName: &text, DeviceName: &text, Lang: &text,
						Data: []byte(`{"url":"` + at.URL + `/_matrix/push/v1/notify"` + more + `}`),
					})
				}
				if !c.gateway {
					after = before
				}
				var asked atomic.Int64
				answer := before.Config.Handler
				before.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if asked.Add(1) > 1 {
						answer.ServeHTTP(w, r)
						return
					}
					more := ""
					if c.data {
						more = `,"extra":1`
					}
					if c.gateway || c.data || c.same {
						if err := set(after, more); err != nil {
							t.Error(err)
						}
					}
					_, _ = fmt.Fprintf(w, `{"rejected":[%q]}`, key)
				})
				room := n.Room(t, "alice", "bob")
				waits := n.Say(t, "alice", room, "it waits")
				n.worked(t)
				if err := set(before, ""); err != nil {
					t.Fatal(err)
				}
				far := n.Now().Add(time.Hour).UnixMilli()
				if err := n.Process.DB.Write(t.Context(), func(w *db.Batch) error {
					w.Rows(outboxRows, [][]any{{user, "a", key, waits, n.events.Shard(room), n.Now().UnixMilli(), far, 0}})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				event := n.Say(t, "alice", room, "it is rejected")
				n.worked(t)
				if c.stays > 0 {
					roletest.Until(t, "it is told to the pusher of now", func() bool { _, times := after.find(event); return times > 0 })
				}
				roletest.Until(t, "what was rejected waits no more", func() bool { return n.outboxRows(t) <= c.stays })
				list, err := n.queryPushers(t.Context(), `user_id = $1`, user)
				if err != nil || len(list) != c.stays || n.outboxRows(t) != c.stays {
					t.Errorf("expected %d pushers and as many rows of the outbox, found %d and %d, %v", c.stays, len(list), n.outboxRows(t), err)
				}
			})
		})
	}
}
