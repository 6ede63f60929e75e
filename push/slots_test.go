package push

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// newSlots returns the slots of a process that just began.
func newSlots() *sendSlots {
	s := &sendSlots{}
	s.init()
	return s
}

// sendTo is a send that has no slot yet.
func sendTo(user, gateway, event string) *delivery {
	k := sendKey{user: user, app: "a", pushkey: gateway, event: event}
	if !strings.Contains(gateway, "://") {
		gateway = "https://" + gateway
	}
	return &delivery{slot: slotOf(k, gateway+"/_matrix/push/v1/notify"), done: make(chan struct{})}
}

// fill takes all slots that there are, and returns the sends that have one.
func (s *sendSlots) fill(user, gateway func(i int) string, again bool, now time.Time) (taken []*delivery) {
	for i := range 5000 {
		d := sendTo(user(i), gateway(i), fmt.Sprint(i))
		d.fromOutbox = again
		if _, err := s.acquire(d, now); err == nil {
			taken = append(taken, d)
		}
	}
	return taken
}

func each(name string) func(int) string { return func(i int) string { return fmt.Sprint(name, i) } }

func only(name string) func(int) string { return func(int) string { return name } }

// TestUntriedGatewaysTakeFewSlots, however many they are, and none of the slots for trusted gateways.
func TestUntriedGatewaysTakeFewSlots(t *testing.T) {
	s, now := newSlots(), time.Now()
	well := sendTo("bob", "well", "first")
	s.sendPrompt(&well.slot)
	if n := len(s.fill(each("hostile"), each("host"), false, now)); n != slotLimits[untried].all {
		t.Errorf("expected %d, found %d", slotLimits[untried].all, n)
	}
	if n := len(s.fill(only("bob"), only("well"), false, now)); n != slotLimits[trusted].user {
		t.Errorf("bob: expected %d, found %d", slotLimits[trusted].user, n)
	}
}

// TestAGatewayIsTrustedFromItsFirstPromptAnswer on, and has many slots then.
func TestAGatewayIsTrustedFromItsFirstPromptAnswer(t *testing.T) {
	s, now := newSlots(), time.Now()
	first := s.fill(each("user"), only("well"), false, now)
	if len(first) != slotLimits[untried].gateway {
		t.Errorf("expected %d, found %d", slotLimits[untried].gateway, len(first))
	}
	s.sendPrompt(&first[0].slot)
	if n := len(s.fill(each("other"), only("well"), false, now)); n != slotLimits[trusted].gateway {
		t.Errorf("expected %d, found %d", slotLimits[trusted].gateway, n)
	}
}

// TestSlowSendsKeepNoSlotsFromOthers that are trusted more.
func TestSlowSendsKeepNoSlotsFromOthers(t *testing.T) {
	s, now := newSlots(), time.Now()
	hung := s.fill(each("hostile"), each("host"), false, now)
	freed := s.freedSignal()
	for _, d := range hung {
		s.markSlow(&d.slot, now)
	}
	select {
	case <-freed:
	default:
		t.Error("who waits was not told")
	}
	if _, err := s.acquire(sendTo("bob", "new", "e"), now); err != nil {
		t.Errorf("a gateway that nobody knows: %v", err)
	}
	for _, d := range hung {
		s.release(&d.slot)
	}
	late := sendTo("carol", "new", "e")
	if _, err := s.acquire(late, now); err != nil {
		t.Fatal(err)
	}
	s.release(&late.slot)
	s.markSlow(&late.slot, now) // its timer was late
	if n := s.used[slotCount{suspectPusher, ""}]; n != 0 {
		t.Errorf("all ended: found %d", n)
	}
}

// TestAnotherGatewayOfAUserThatFailedIsNoReasonToWait, also when all slots for suspect sends are taken.
func TestAnotherGatewayOfAUserThatFailedIsNoReasonToWait(t *testing.T) {
	s, now := newSlots(), time.Now()
	well, ill := sendTo("bob", "well", "e"), sendTo("bob", "ill", "e")
	s.sendPrompt(&well.slot)
	for i := range 100 {
		s.sendFailed(&sendTo("somebody", fmt.Sprint("ill", i), "e").slot, now)
	}
	s.sendFailed(&ill.slot, now)
	if _, err := s.acquire(ill, now); !errors.Is(err, errSuspect) {
		t.Errorf("the gateway that failed: found %v", err)
	}
	s.fill(only("bob"), only("ill"), true, now)
	s.fill(each("hostile"), func(i int) string { return fmt.Sprint("ill", i%100) }, true, now)
	if _, err := s.acquire(well, now); err != nil {
		t.Errorf("the gateway that is well: found %v", err)
	}
}

// TestManyRowsOfASuspectGatewayWaitLong, and few do not.
func TestManyRowsOfASuspectGatewayWaitLong(t *testing.T) {
	s, now := newSlots(), time.Now()
	p := &sendTo("bob", "ill", "e").slot
	s.sendFailed(p, now)
	if pause := s.delay(p, now); pause > 2*time.Second {
		t.Errorf("the first: found %s", pause)
	}
	for range 1000 {
		s.delay(p, now)
	}
	s.sendFailed(p, now) // it failed again
	if pause := s.delay(p, now); pause < suspectFor/2 || pause > 2*suspectFor {
		t.Errorf("one of many: found %s", pause)
	}
	for at := now; at.Before(now.Add(10 * time.Minute)); at = at.Add(suspectFor / 2) {
		s.sendFailed(p, at)
	}
	later := now.Add(10 * time.Minute)
	for range 10_000 {
		s.delay(p, later)
	}
	if pause := s.delay(p, later); pause < maxPause/2 || pause > 2*maxPause {
		t.Errorf("one of many of a gateway that was never well: found %s", pause)
	}
	s.sendPrompt(p)
	s.sendFailed(p, later)
	if pause := s.delay(p, later); pause > 2*time.Second {
		t.Errorf("after it was well again: found %s", pause)
	}
}

// TestHealthIsBounded, and the newest record is kept.
func TestHealthIsBounded(t *testing.T) {
	s, now := newSlots(), time.Now()
	for i := range maxHealth {
		p := &sendTo(fmt.Sprint("user", i), fmt.Sprint("host", i), "e").slot
		s.sendFailed(p, now)
		if s.trustOf(p, now) < suspectGateway {
			t.Fatalf("%d is not in doubt", i)
		}
		s.sendPrompt(&sendTo("", fmt.Sprint("well", i), "e").slot)
		s.sendPrompt(&sendTo("", fmt.Sprint("good", i), "e").slot)
	}
	if len(s.health) > maxHealth || len(s.pusherHealth) > maxHealth || len(s.gateways) > maxGateways {
		t.Errorf("found %d doubts and %d known gateways", len(s.health), len(s.gateways))
	}
}
