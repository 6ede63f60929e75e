package push

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"lyceum/platform/dial"
)

// What fails is left alone for growing pauses, in which nothing is sent to it or prepared for it, and after which one send tries it.
// A gateway that can not be connected to is left alone as a whole: a connection is the same whoever sends. How it answers, with an error
// or never, may be the doing of one user, as many gateways ask another server for each pusher: so only that pusher is left alone.
// For the same reason only the pusher and its user are in doubt when it is slow, unless it is so for most users (tally.go).

const (
	maxPause            = 5 * time.Minute       // in which something is left alone, and between two tries of a row of the outbox
	maxPauseAfter       = 10                    // failures in a row after which the pause is the longest
	delayStep           = 50 * time.Millisecond // between two rows of the outbox that were put off as there was no place
	delayStepBackingOff = 10 * time.Millisecond // between two that were put off as their gateway or pusher is left alone
	loggedAfter         = 3                     // failures in a row after which it is logged
	loggedAgain         = 24 * time.Hour
	maxLogLines         = 10 // lines at once; then one a minute
	logLineEvery        = time.Minute
	pauseJitter         = 4 // a pause is shorter by up to this part of it
	delayJitter         = 8 // and what waits does so for longer by up to this part
)

// doubt is about a gateway, a user, a user at a gateway, or a pusher.
type health struct {
	badSince     time.Time // it was slow or failed, and not well since
	suspectUntil time.Time // it was so lately
	failures     int       // in a row
	firstFailure time.Time // when the first of them was
	lastFailure  time.Time // when the last was
	backOffUntil time.Time // nothing is sent up to then
	probe        *slot     // of the send that tries whether it is well again
	lastDue      time.Time // when the last row of the outbox is due that was put off for it
	loggedAt     time.Time // that it is left alone
}

// isOver tells that there is no reason to remember it.
func (d *health) isForgettable(now time.Time) bool {
	return now.After(d.suspectUntil) && (d.failures == 0 || now.After(d.lastFailure.Add(2*maxPause)))
}

// holds tells that it was slow or failed lately, or failed and was not tried since.
func (d *health) isSuspect(now time.Time) bool {
	return d != nil && (d.failures > 0 || now.Before(d.suspectUntil))
}

// isAlone tells that nothing is to be sent.
func (d *health) isBackingOff(now time.Time) bool {
	return d != nil && d.failures > 0 && (now.Before(d.backOffUntil) || d.probe != nil)
}

// fail begins a pause. A send that began before the last pause says nothing new.
func (d *health) recordFailure(began, now time.Time, atLeast int) {
	if d.failures > 0 && began.Before(d.lastFailure) {
		return
	}
	if d.failures == 0 {
		d.firstFailure = now
	}
	d.failures = max(d.failures+1, atLeast)
	d.lastFailure = now
	pause := min(firstPause<<min(d.failures-1, maxPauseAfter), maxPause)
	d.backOffUntil = now.Add(pause - rand.N(pause/pauseJitter))
	d.lastDue = d.backOffUntil
}

// putOff gives how long one more row of the outbox waits: behind those before it, which are sent at a pace, but for no longer than what
// is not left alone was not well.
func (d *health) delay(now time.Time) time.Duration {
	each, most := delayStep, min(max(now.Sub(d.badSince), suspectFor), maxPause)
	if d.failures > 0 {
		each, most = delayStepBackingOff, maxPause
	}
	if d.lastDue.Before(now) {
		d.lastDue = now
	}
	d.lastDue = d.lastDue.Add(each)
	wait := d.lastDue.Sub(now)
	if wait > most {
		d.lastDue = now.Add(most)
		wait = max(d.backOffUntil.Sub(now), most/2+rand.N(most/2))
	}
	return wait + rand.N(wait/delayJitter+1)
}

// outcome is how a gateway took a send.
type outcome int

const (
	delivered   outcome = iota
	refused             // it answered with an error
	noAnswer            // it was connected, and gave no answer
	unreachable         // it could not be connected to
	forbidden           // it is at an address that must not be connected to
)

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return delivered
	case errors.Is(err, dial.ErrPrivate):
		return forbidden
	case errors.Is(err, errUnreachable):
		return unreachable
	case errors.Is(err, errRefused):
		return refused
	}
	return noAnswer
}

// news is a line for the log: of a gateway or of a pusher, which is left alone or no longer.
type backOffLog struct {
	pusher, recovered bool
	firstFailure      time.Time
}

// judge notes how a send ended, and whether within the time of promptly. It gives what is to be logged.
func (s *sendSlots) record(p *slot, o outcome, inTime bool, now time.Time) (list []backOffLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o == unreachable || o == forbidden {
		markSuspect(s.health, p.user, now) // before the next, which may take its room
		d, least := s.suspectTheGateway(p, now), 0
		if o == forbidden {
			least = maxPauseAfter
		}
		d.recordFailure(p.began, now, least)
		return s.logBackOff(d, backOffLog{}, now)
	}
	list = s.endBackOff(s.health[p.gateway], backOffLog{recovered: true}, now)
	d := s.pusherHealth[p.pusher]
	switch {
	case o == noAnswer, !inTime:
		s.recordSlow(p, now)
		d = s.pusherHealth[p.pusher]
	case o == delivered:
		s.recordSuccess(p)
	default:
		s.recordAnswer(p)
	}
	if o == delivered {
		return append(list, s.endBackOff(d, backOffLog{pusher: true, recovered: true}, now)...)
	}
	if d == nil {
		d = healthOf(s.pusherHealth, p.pusher, maxHealth, now)
	}
	d.recordFailure(p.began, now, 0)
	return append(list, s.logBackOff(d, backOffLog{pusher: true}, now)...)
}

// suspect notes that a send was slow: its pusher and its user are in doubt, and the gateway when it is slow for most users. The caller
// holds mu.
func (s *sendSlots) recordSlow(p *slot, now time.Time) {
	t, gateway := s.gateways[p.gateway], s.health[p.gateway]
	first := !s.pusherHealth[p.pusher].isSuspect(now)
	if t != nil && first {
		t.record(verdict{s.hash(p.user), true})
	}
	delete(s.promptPushers, s.hash(p.pusher))
	markSuspect(s.pusherHealth, p.pusher, now)
	markSuspect(s.health, p.user, now)
	markSuspect(s.health, p.atGateway(), now)
	if t.isSlow() && (t == nil || first || gateway.isSuspect(now)) { // last, as the others may take its room
		s.suspectTheGateway(p, now)
	}
}

// doubtGateway puts a gateway in doubt; the caller holds mu.
func (s *sendSlots) suspectTheGateway(p *slot, now time.Time) *health {
	if t := s.gateways[p.gateway]; t != nil {
		t.prompt = false
	}
	return markSuspect(s.health, p.gateway, now)
}

// inDoubt puts what has a name in doubt for some time.
func markSuspect(of map[string]*health, name string, now time.Time) *health {
	d := healthOf(of, name, maxHealth, now)
	if !now.Before(d.suspectUntil) {
		d.badSince = now
	}
	d.suspectUntil = now.Add(suspectFor)
	return d
}

// well notes that a gateway answered promptly; the caller holds mu.
func (s *sendSlots) recordAnswer(p *slot) {
	delete(s.health, p.gateway)
	t := s.gateways[p.gateway]
	if t == nil {
		evictOne(s.gateways, maxGateways)
		t = &gatewayVerdicts{}
		s.gateways[p.gateway] = t
	}
	t.prompt = true
	t.record(verdict{s.hash(p.user), false})
}

// took notes that a gateway took a send promptly; the caller holds mu. That a pusher is so which was in doubt tells that the gateway is
// no longer slow for its user.
func (s *sendSlots) recordSuccess(p *slot) {
	s.recordAnswer(p)
	if s.pusherHealth[p.pusher] != nil {
		delete(s.pusherHealth, p.pusher)
		delete(s.health, p.atGateway())
	}
	delete(s.health, p.user)
	s.setPromptPusher(p)
}

// connected ends that something is left alone; the caller holds mu.
func (s *sendSlots) endBackOff(d *health, n backOffLog, now time.Time) []backOffLog {
	if d == nil || d.failures == 0 {
		return nil
	}
	logged := !d.loggedAt.IsZero()
	n.firstFailure = d.firstFailure
	*d = health{badSince: d.badSince, suspectUntil: d.suspectUntil, lastDue: now}
	if logged && s.logLimit.allow(now) {
		return []backOffLog{n}
	}
	return nil
}

// report tells whether it is to be logged that something is left alone; the caller holds mu.
func (s *sendSlots) logBackOff(d *health, n backOffLog, now time.Time) []backOffLog {
	if d.failures < loggedAfter || !d.loggedAt.IsZero() && now.Sub(d.loggedAt) < loggedAgain || !s.logLimit.allow(now) {
		return nil
	}
	d.loggedAt, n.firstFailure = now, d.firstFailure
	return []backOffLog{n}
}

// remember gives the doubt of a name. When there are too many it makes room: it drops some that are over, else any one, which is
// unknown then.
func healthOf(doubts map[string]*health, name string, most int, now time.Time) *health {
	if d := doubts[name]; d != nil {
		return d
	}
	if len(doubts) >= most {
		looked, dropped, last := 0, 0, ""
		for name, d := range doubts {
			if last = name; d.isForgettable(now) {
				delete(doubts, name)
				dropped++
			}
			if looked++; looked == sweepAtOnce {
				break
			}
		}
		if dropped == 0 {
			delete(doubts, last)
		}
	}
	d := &health{}
	doubts[name] = d
	return d
}

// lines are those that may be logged.
type logLimit struct {
	used int
	last time.Time
}

func (l *logLimit) allow(now time.Time) bool {
	if passed := int(now.Sub(l.last) / logLineEvery); passed > 0 {
		l.used, l.last = max(0, l.used-passed), now
	}
	if l.used == maxLogLines {
		return false
	}
	l.used++
	return true
}

// judge notes what a send says of its gateway and of its pusher.
func (p *Push) recordOutcome(d *delivery, err error, inTime bool) {
	now := p.Now()
	for _, n := range p.slots.record(&d.place, outcomeOf(err), inTime, now) {
		log := p.Process.Log.With("gateway", strings.TrimPrefix(d.place.gateway, gatewayPrefix), "for", now.Sub(n.firstFailure).Round(time.Second))
		if n.pusher {
			log = log.With("user", d.pusher.UserID, "app", d.pusher.AppID)
		}
		switch {
		case n.pusher && n.recovered:
			log.Info("a push gateway takes the notifications of a pusher again")
		case n.pusher:
			log.Info("a push gateway does not take the notifications of a pusher, they are sent again after growing pauses", "error", err)
		case n.recovered:
			log.Info("a push gateway is reached again")
		default:
			log.Info("a push gateway is not reached, it is left alone for growing pauses", "error", err)
		}
	}
}

// pauseAfter gives how long a notification waits whose send failed, and how many tries that counts: none when the gateway was not reached,
// which says nothing of the notification.
func (p *Push) pauseAfterFailure(d *delivery, err error) (pause time.Duration, tries int) {
	now := p.Now()
	if o := outcomeOf(err); o != unreachable && o != forbidden {
		pause, tries = min(firstPause<<min(d.tries, maxPauseAfter), maxPause), 1
	}
	pause = max(pause, p.slots.backOffFor(&d.place, now), shortPause)
	return pause + rand.N(pause/delayJitter), tries
}
