package push

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/role/roletest"
)

// holdFor makes a gateway answer nothing for the pushers of some users until the test ends, and at once for others. It counts the
// requests that it holds.
func (g *pushGateway) holdFor(t *testing.T, users ...string) *atomic.Int64 {
	answer, end, held := g.Config.Handler, make(chan struct{}), new(atomic.Int64)
	t.Cleanup(func() { close(end) })
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // then it is seen that the client goes
		r.Body = io.NopCloser(bytes.NewReader(body))
		key := gjson.GetBytes(body, "notification.devices.0.pushkey").String()
		for _, user := range users {
			if strings.HasPrefix(key, user) {
				held.Add(1)
				select {
				case <-end:
				case <-r.Context().Done():
				}
				return
			}
		}
		answer.ServeHTTP(w, r)
	})
	return held
}

// TestSlowPushersHoldUpNobodyAtTheirGateway: pushers that the gateway answers promptly get the events of a flood, and not from
// the outbox, while the pushers of another user are never answered.
func TestSlowPushersHoldUpNobodyAtTheirGateway(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob", "carol")
		n.pushers(t, "bob", g, 3)
		first := n.Say(t, "alice", room, "the gateway is known")
		roletest.Until(t, "bob is told", func() bool { _, times := g.find(first); return times == 3 })
		n.worked(t)
		held := g.holdFor(t, "carol")
		n.pushers(t, "carol", g, 5)
		late := 0
		for i := range 20 {
			event := n.Say(t, "alice", room, fmt.Sprint("flood ", i))
			n.worked(t)
			if _, times := g.find(event); times != 3 {
				late++
				t.Logf("event %d: bob was told %d times when the batch was done", i, times)
			}
		}
		if late > 5 { // a machine may stand still for half a second now and then
			t.Errorf("%d of 20 events were left to the outbox", late)
		}
		if held.Load() == 0 {
			t.Error("nothing was sent to the slow pushers")
		}
	})
}

// atShared is a send for a pusher of a user to a gateway that many share.
func atShared(user, pushkey, event string) *delivery {
	return &delivery{slot: slotOf(sendKey{user, "a", pushkey, event}, "https://shared/_matrix/push/v1/notify"), done: make(chan struct{})}
}

// sendSlowly takes slots for sends, all of which turn out to be slow. It returns those that had one.
func (s *sendSlots) sendSlowly(now time.Time, list ...*delivery) (sent []*delivery) {
	for _, d := range list {
		if _, err := s.acquire(d, now); err == nil {
			sent = append(sent, d)
		}
	}
	for _, d := range sent {
		s.markSlow(&d.slot, now.Add(slowAfter))
	}
	return sent
}

// promptFor sends promptly for many users, and fails when one has no slot.
func (s *sendSlots) promptFor(t *testing.T, users int, now time.Time) {
	t.Helper()
	for i := range users {
		d := atShared(fmt.Sprint("user", i), "k", "prompt")
		if _, err := s.acquire(d, now); err != nil {
			t.Fatalf("user %d: %v", i, err)
		}
		s.record(&d.slot, delivered, true, now)
		s.release(&d.slot)
	}
}

// TestHostilePushersDoNotOutweighPromptOnes: three users with five pushers each that are never answered, for hours, also in a time in
// which no other user gets anything.
func TestHostilePushersDoNotOutweighPromptOnes(t *testing.T) {
	s, now := newSlots(), time.Now()
	s.promptFor(t, 2, now)
	for round := range 100 {
		var list []*delivery
		for i := range 15 {
			d := atShared(fmt.Sprint("hostile", i%3), fmt.Sprint(i), fmt.Sprint(round))
			d.fromOutbox = true
			list = append(list, d)
		}
		sent := s.sendSlowly(now, list...)
		s.promptFor(t, 2, now.Add(slowAfter))
		now = now.Add(sendWithin)
		for _, d := range sent {
			s.record(&d.slot, noAnswer, false, now)
			s.release(&d.slot)
		}
		now = now.Add(time.Minute)
	}
}

// TestNewPushersOfAHostileUserTakeFewSlots: each pusher is new and slow, but its user is known.
func TestNewPushersOfAHostileUserTakeFewSlots(t *testing.T) {
	s, now := newSlots(), time.Now()
	s.promptFor(t, 20, now)
	began, all := 0, 0
	for round := range 60 { // half a second each
		var list []*delivery
		for user := range 6 {
			for i := range 10 {
				list = append(list, atShared(fmt.Sprint("hostile", user), fmt.Sprint(round, i), "e"))
			}
		}
		sent := s.sendSlowly(now, list...)
		if all += len(sent); round == 0 {
			began = all
		}
		s.promptFor(t, 20, now.Add(slowAfter))
		now = now.Add(slowAfter)
	}
	if all > began || began > 6*maxSlowOfUser {
		t.Errorf("expected that only the first are sent at once, found %d, and %d later", began, all-began)
	}
	later := atShared("hostile0", "new", "e")
	if later.fromOutbox = true; len(s.sendSlowly(now, later)) != 0 {
		t.Error("the outbox sends more for a user with many slow sends")
	}
}

// TestAnotherPusherOfTheUserIsPrompt at the same gateway: it needs no slot for suspect sends.
func TestAnotherPusherOfTheUserIsPrompt(t *testing.T) {
	s, now := newSlots(), time.Now()
	good := atShared("bob", "good", "a")
	s.sendOnce(good, delivered, now)
	s.promptFor(t, 40, now)
	s.sendSlowly(now, atShared("bob", "bad", "a"))
	for i := range 12 {
		s.sendSlowly(now, atShared(fmt.Sprint("hostile", i), "k", "e"))
	}
	if _, err := s.acquire(atShared("bob", "good", "b"), now.Add(slowAfter)); err != nil {
		t.Error(err)
	}
}

// TestAGatewayThatBecomesSlowForAllIsSuspect from its sends in flight on. It is trusted again when it is prompt, and
// then most users are sent to at once, and those who were slow later.
func TestAGatewayThatBecomesSlowForAllIsSuspect(t *testing.T) {
	for _, users := range []int{1, 2, 5, 40, 1000} {
		s, now := newSlots(), time.Now()
		s.promptFor(t, users, now)
		var list []*delivery
		for i := range users {
			list = append(list, atShared(fmt.Sprint("user", i), "k", "slow"))
		}
		sent := s.sendSlowly(now, list...)
		fresh := atShared("fresh", "k", "e")
		if _, err := s.acquire(fresh, now.Add(slowAfter)); err == nil {
			t.Errorf("%d users: it is sent to at once", users)
		}
		now = now.Add(sendWithin)
		for _, d := range sent {
			s.record(&d.slot, delivered, false, now)
			s.release(&d.slot)
		}
		if !s.sendOnce(fresh, delivered, now) {
			t.Fatalf("%d users: a pusher that was not slow has no place", users)
		}
		if _, err := s.acquire(atShared("another", "k", "e"), now); err != nil {
			t.Errorf("%d users: it is prompt again: %v", users, err)
		}
		for _, d := range sent { // their places are few, so one comes after the other
			if again := atShared(strings.TrimPrefix(d.slot.user, userPrefix), "k", "again"); !s.sendOnce(again, delivered, now) {
				t.Fatalf("%d users: a pusher that was slow is not tried", users)
			}
		}
		s.promptFor(t, users, now)
	}
}

// TestOneSlowUserMakesNoGatewaySuspect, however often and with whatever pushers, while another user is prompt.
func TestOneSlowUserMakesNoGatewaySuspect(t *testing.T) {
	s, now := newSlots(), time.Now()
	s.promptFor(t, 1, now)
	for i := range 1000 {
		s.sendFailed(&atShared("hostile", fmt.Sprint(i), "e").slot, now)
	}
	s.promptFor(t, 1, now)
}

// TestPromptPushersAreBounded: the number of pushers that are remembered as prompt.
func TestPromptPushersAreBounded(t *testing.T) {
	s := newSlots()
	for i := range maxPromptPushers + 10 {
		s.sendPrompt(&atShared("bob", fmt.Sprint(i), "e").slot)
	}
	if len(s.promptPushers) > maxPromptPushers {
		t.Errorf("found %d", len(s.promptPushers))
	}
}
