package push

import (
	"container/heap"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/dial"
	"lyceum/platform/role/roletest"
)

// sendOnce takes a slot for a row of the outbox and ends the send with an outcome. It reports whether there was a slot.
func (s *sendSlots) sendOnce(d *delivery, o outcome, now time.Time) bool {
	d.fromOutbox = true
	if _, err := s.acquire(d, now); err != nil {
		return false
	}
	s.record(&d.slot, o, true, now)
	s.release(&d.slot)
	return true
}

// TestAnUnreachableGatewayBacksOff for growing pauses, for all users. After each pause one send probes it.
func TestAnUnreachableGatewayBacksOff(t *testing.T) {
	s, now := newSlots(), time.Now()
	first := s.fill(each("user"), only("dead"), true, now)
	if len(first) != slotLimits[untried].gateway {
		t.Fatalf("expected %d, found %d", slotLimits[untried].gateway, len(first))
	}
	for _, d := range first { // that all fail is one failure
		s.record(&d.slot, unreachable, true, now.Add(time.Millisecond))
		s.release(&d.slot)
	}
	pause := time.Second
	for range 15 {
		fresh := sendTo("carol", "dead", "new")
		if _, err := s.acquire(fresh, now.Add(pause/2)); !errors.Is(err, errBackingOff) {
			t.Errorf("a new one in the pause of %s: found %v", pause, err)
		}
		if n := len(s.fill(each("user"), only("dead"), true, now.Add(pause/2))); n != 0 {
			t.Errorf("in the pause of %s: found %d", pause, n)
		}
		if now = now.Add(pause + time.Millisecond); s.sendOnce(sendTo("bob", "well", "e"), delivered, now) != true {
			t.Error("another gateway of a user waits")
		}
		probe := s.fill(each("user"), only("dead"), true, now)
		if len(probe) != 1 {
			t.Fatalf("after the pause of %s: expected one, found %d", pause, len(probe))
		}
		s.record(&probe[0].slot, unreachable, true, now)
		s.release(&probe[0].slot)
		pause = min(2*pause, maxPause)
	}
	if now = now.Add(pause); !s.sendOnce(sendTo("bob", "dead", "e"), delivered, now) {
		t.Fatal("it is not tried again")
	}
	if n := len(s.fill(each("user"), only("dead"), true, now)); n != slotLimits[trusted].gateway {
		t.Errorf("when it is back: expected %d, found %d", slotLimits[trusted].gateway, n)
	}
}

// TestAProbeThatSaysNothingIsFollowedByAnother: the probe ended without a request, as its notification was not needed any more.
func TestAProbeThatSaysNothingIsFollowedByAnother(t *testing.T) {
	s, now := newSlots(), time.Now()
	s.sendOnce(sendTo("bob", "dead", "a"), unreachable, now)
	now = now.Add(maxPause)
	probe := sendTo("bob", "dead", "b")
	probe.fromOutbox = true
	if _, err := s.acquire(probe, now); err != nil {
		t.Fatal(err)
	}
	s.release(&probe.slot)
	if !s.sendOnce(sendTo("bob", "dead", "c"), unreachable, now) {
		t.Error("found none")
	}
}

// TestAPrivateAddressBacksOffForLongAtOnce, and is logged once.
func TestAPrivateAddressBacksOffForLongAtOnce(t *testing.T) {
	s, now := newSlots(), time.Now()
	logged := 0
	for range 100 {
		d := sendTo("bob", "inside", "e")
		d.fromOutbox = true
		if _, err := s.acquire(d, now); err != nil {
			t.Fatal(err)
		}
		logged += len(s.record(&d.slot, forbidden, true, now))
		s.release(&d.slot)
		if s.sendOnce(sendTo("bob", "inside", "e"), forbidden, now.Add(maxPause/2)) {
			t.Error("it was sent to")
		}
		now = now.Add(maxPause)
	}
	if logged != 1 {
		t.Errorf("expected one line for the log, found %d", logged)
	}
}

// TestAnswersWithAnErrorAreOfOnePusher: other pushers, of its user and of others, are still sent to at the same gateway.
func TestAnswersWithAnErrorAreOfOnePusher(t *testing.T) {
	for _, o := range []outcome{refused, noAnswer} {
		s, now := newSlots(), time.Now()
		for i := range 200 {
			at := now.Add(time.Duration(i) * maxPause)
			well := sendTo("bob", "shared", "e")
			if !s.sendOnce(well, delivered, at) {
				t.Fatal("bob waits")
			}
			for u := range 20 {
				bad := sendTo(fmt.Sprint("hostile", u), "shared", "e")
				s.sendOnce(bad, o, at)
				if s.sendOnce(bad, o, at) {
					t.Fatalf("outcome %d: a pusher that fails is not left alone", o)
				}
			}
			if !s.sendOnce(well, delivered, at) {
				t.Fatalf("outcome %d: bob waits for others", o)
			}
			other := sendTo("hostile0", "shared", "e")
			other.slot = slotOf(sendKey{"hostile0", "a", "another", "e"}, "https://shared/_matrix/push/v1/notify")
			if !s.sendOnce(other, delivered, at) {
				t.Errorf("outcome %d: another pusher of the user waits", o)
			}
			if s.mu.Lock(); s.trustOf(&well.slot, at) != trusted {
				t.Errorf("outcome %d: found trust %d", o, s.trustOf(&well.slot, at))
			}
			s.mu.Unlock()
		}
	}
}

// TestAGatewayWithoutTLSIsAnother: a gateway without TLS and one with it have records of their own, also at the same port.
func TestAGatewayWithoutTLSIsAnother(t *testing.T) {
	s, now := newSlots(), time.Now()
	s.sendOnce(sendTo("hostile", "https://gateway:5000", "e"), unreachable, now)
	if !s.sendOnce(sendTo("bob", "http://gateway:5000", "e"), delivered, now) {
		t.Error("bob waits")
	}
}

// TestRowsOfPushersThatBackOffDelayNoOthers at the same gateway.
func TestRowsOfPushersThatBackOffDelayNoOthers(t *testing.T) {
	s, now := newSlots(), time.Now()
	bad := sendTo("hostile", "shared", "e")
	s.sendOnce(bad, noAnswer, now)
	for range 10_000 {
		s.delay(&bad.slot, now)
	}
	if pause := s.delay(&sendTo("bob", "shared", "e").slot, now); pause > 2*time.Second {
		t.Errorf("found %s", pause)
	}
}

// dueTimes is a heap of the times when rows of an outbox are due.
type dueTimes []time.Time

func (d dueTimes) Len() int           { return len(d) }
func (d dueTimes) Less(i, j int) bool { return d[i].Before(d[j]) }
func (d dueTimes) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueTimes) Push(x any)        { *d = append(*d, x.(time.Time)) }
func (d *dueTimes) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

// TestWhatADeadGatewayCosts checks how many sends a dead gateway costs in an hour, and how soon its rows are due when it is back.
func TestWhatADeadGatewayCosts(t *testing.T) {
	for rows, perSecond := range map[int]int{1: 1, 1000: 5, 100_000: 500} {
		s, began := newSlots(), time.Now()
		p := &Push{Deps: Deps{Now: func() time.Time { return began }}}
		outbox := &dueTimes{}
		for range rows {
			*outbox = append(*outbox, began)
		}
		now, written, sent := began, 0, 0
		warm := began.Add(30 * time.Minute)
		for end := warm.Add(time.Hour); now.Before(end); {
			now = (*outbox)[0]
			if now.After(warm) {
				written++
			}
			d := sendTo("bob", "dead", "e")
			var wait time.Duration
			if s.sendOnce(d, unreachable, now) {
				p.Now = func() time.Time { return now }
				p.slots.health, p.slots.pusherHealth = s.health, s.pusherHealth
				var tries int
				if wait, tries = p.pauseAfterFailure(d, errUnreachable); tries != 0 {
					t.Fatal("a gateway that is not reached says nothing of the notification")
				}
				if now.After(warm) {
					sent++
				}
			} else {
				wait = s.delay(&d.slot, now)
			}
			(*outbox)[0] = now.Add(wait)
			heap.Fix(outbox, 0)
		}
		t.Logf("%d rows: %d sends, %d rows written", rows, sent, written)
		if sent > 20 || written > perSecond*3600 {
			t.Errorf("%d rows: found %d sends and %d rows written", rows, sent, written)
		}
		back := now
		for outbox.Len() > 0 {
			last := heap.Pop(outbox).(time.Time)
			if outbox.Len() == 0 && last.Sub(back) > maxPause*5/4 {
				t.Errorf("%d rows: the last is due after %s", rows, last.Sub(back))
			}
		}
	}
}

// TestPushersThatBackOffAreBounded, and so are the lines of the log.
func TestPushersThatBackOffAreBounded(t *testing.T) {
	s, now := newSlots(), time.Now()
	lines := 0
	for i := range 2 * maxHealth {
		for range 3 {
			p := &sendTo(fmt.Sprint("user", i), fmt.Sprint("host", i), "e").slot
			p.began = now
			lines += len(s.record(p, refused, true, now)) + len(s.record(p, unreachable, true, now))
		}
	}
	if len(s.pusherHealth) > maxHealth || len(s.health) > maxHealth || lines > maxLogLines {
		t.Errorf("found %d pushers, %d doubts and %d lines", len(s.pusherHealth), len(s.health), lines)
	}
	now = now.Add(logLineEvery)
	p := &sendTo("user", "host", "e").slot
	for i := range 5 {
		p.began = now.Add(time.Duration(i))
		lines += len(s.record(p, unreachable, true, now.Add(time.Duration(i))))
	}
	if lines += len(s.record(p, delivered, true, now)); lines != maxLogLines+1 {
		t.Errorf("a minute later: expected one more line, found %d", lines-maxLogLines)
	}
}

// TestWhatIsLogged: that a gateway backs off, once it failed several times, and that it has recovered.
func TestWhatIsLogged(t *testing.T) {
	s, now := newSlots(), time.Now()
	var all []backOffLog
	for i, o := range []outcome{
		unreachable, delivered, unreachable, unreachable, unreachable, unreachable, delivered, delivered, refused, refused, refused, delivered,
	} {
		p := &sendTo("bob", "host", "e").slot
		now = now.Add(time.Minute)
		p.began = now
		for _, n := range s.record(p, o, true, now) {
			t.Log(i, n)
			all = append(all, n)
		}
	}
	if len(all) != 4 || all[0].recovered || all[0].pusher || !all[1].recovered || all[1].pusher ||
		all[2].recovered || !all[2].pusher || !all[3].recovered || !all[3].pusher {
		t.Errorf("found %v", all)
	}
}

// TestHowSendsFail: a gateway that can not be connected to, one that does not answer, and one that answers with an error are told apart.
func TestHowSendsFail(t *testing.T) {
	g := newGateway(harnessConfig)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/error":
			w.WriteHeader(http.StatusNotFound)
		case "/text":
			_, _ = w.Write([]byte("hello"))
		case "/cut":
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	for url, want := range map[string]outcome{
		server.URL + "/": delivered, server.URL + "/error": refused, server.URL + "/text": refused, server.URL + "/cut": noAnswer,
		"http://" + dead.Addr().String(): unreachable, "http://no-such-host.invalid": unreachable,
		strings.Replace(server.URL, "http", "https", 1): unreachable, "http://10.0.0.1": forbidden,
	} {
		if _, err := g.send(t.Context(), url, []byte("{}")); outcomeOf(err) != want {
			t.Errorf("%s: expected %d, found %d: %v", url, want, outcomeOf(err), err)
		}
	}
	if _, err := g.send(t.Context(), server.URL, []byte("{}")); err != nil { // a connection is kept
		t.Fatal(err)
	}
	server.Close()
	_, _ = g.send(t.Context(), server.URL, []byte("{}")) // the end of the connection may be seen only now
	if _, err := g.send(t.Context(), server.URL, []byte("{}")); outcomeOf(err) != unreachable {
		t.Errorf("it ended: found %v", err)
	}
}

type transport func(r *http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// TestADeadGatewayIsAskedAndPreparedForRarely, and its rows stay in the outbox.
func TestADeadGatewayIsAskedAndPreparedForRarely(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		var asked atomic.Int64
		n.gateway.client.Transport = transport(func(*http.Request) (*http.Response, error) {
			asked.Add(1)
			return nil, dial.ErrPrivate
		})
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob", "carol")
		n.pushers(t, "bob", g, 30)
		n.pushers(t, "carol", g, 30)
		for i := range 10 {
			n.Say(t, "alice", room, fmt.Sprint(i))
		}
		resting := func() (rows int) {
			query := "SELECT COUNT(*) FROM push_outbox WHERE next_ms > $1"
			if err := n.Process.DB.QueryRow(t.Context(), query, n.Now().Add(maxPause/2).UnixMilli()).Scan(&rows); err != nil {
				t.Fatal(err)
			}
			return rows
		}
		roletest.Until(t, "all rest", func() bool { return resting() == 600 })
		before := asked.Load()
		time.Sleep(3 * time.Second)
		if all := asked.Load(); all > int64(slotLimits[untried].gateway) || all != before {
			t.Errorf("it was asked %d times, %d of them later", all, all-before)
		}
		if rows := resting(); rows != 600 {
			t.Errorf("%d rows rest", rows)
		}
	})
}

// TestWhatADeadGatewayMissedComesWhenItIsBack: notifications are sent from the outbox when the gateway answers again.
func TestWhatADeadGatewayMissedComesWhenItIsBack(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		n.pushers(t, "bob", g, 20)
		room := n.Room(t, "alice", "bob")
		n.gateway.client.CloseIdleConnections()
		g.Close()
		var events []string
		for i := range 5 {
			events = append(events, n.Say(t, "alice", room, fmt.Sprint(i)))
		}
		roletest.Until(t, "it is left alone", func() bool {
			n.slots.mu.Lock()
			defer n.slots.mu.Unlock()
			d := n.slots.health[sendTo("", g.URL, "").slot.gateway]
			return d != nil && d.failures > 1
		})
		l, err := net.Listen("tcp", g.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		again := httptest.NewUnstartedServer(g.Config.Handler)
		again.Listener.Close()
		again.Listener = l
		again.Start()
		defer again.Close()
		for _, e := range events {
			roletest.Until(t, "all are told", func() bool { _, times := g.find(e); return times >= 20 })
		}
		roletest.Until(t, "nothing waits", func() bool { return n.outboxRows(t) == 0 })
		for _, e := range events {
			if _, times := g.find(e); times != 20 {
				t.Errorf("expected 20, found %d", times)
			}
		}
	})
}

// TestHealthIsOfAPusherAtItsGateway: when a pusher gets another gateway, a late answer of the old one says nothing of the pusher.
func TestHealthIsOfAPusherAtItsGateway(t *testing.T) {
	send := func(gateway, event string) *delivery {
		return &delivery{slot: slotOf(sendKey{"bob", "a", "k", event}, "https://"+gateway+"/_matrix/push/v1/notify"), done: make(chan struct{})}
	}
	for _, o := range []outcome{refused, noAnswer} {
		s, now := newSlots(), time.Now()
		late := send("before", "late")
		if _, err := s.acquire(late, now); err != nil {
			t.Fatal(err)
		}
		if !s.sendOnce(send("after", "first"), delivered, now) {
			t.Fatalf("outcome %d: there is no place", o)
		}
		s.record(&late.slot, o, true, now)
		if _, err := s.acquire(send("after", "second"), now); err != nil {
			t.Errorf("outcome %d: found %v", o, err)
		}
	}

	// A late answer, of the one before, ends no pause of the pusher at the gateway of now.
	s, now := newSlots(), time.Now()
	late := send("before", "late")
	if _, err := s.acquire(late, now); err != nil {
		t.Fatal(err)
	}
	s.sendOnce(send("after", "first"), refused, now)
	s.record(&late.slot, delivered, true, now)
	if _, err := s.acquire(send("after", "second"), now); !errors.Is(err, errBackingOff) {
		t.Errorf("expected that it is left alone, found %v", err)
	}
}
