package push

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"lyceum/platform/dial"
)

// A gateway or pusher that failed backs off for growing pauses, in which nothing is sent to it or prepared for it. After a pause one send
// probes it. A gateway that can not be connected to backs off as a whole, as a connection is the same for all its users. How it answers,
// with an error or never, may be the doing of one user, as many gateways ask another server for each pusher. So then only that pusher
// backs off. For the same reason a slow send makes only the pusher and its user suspect, unless the gateway is slow for most users
// (verdicts.go).

const (
	maxPause            = 5 * time.Minute       // the longest back-off, and the longest time between two tries of a row of the outbox
	maxPauseAfter       = 10                    // failures in a row after which the pause is the longest
	delayStep           = 50 * time.Millisecond // time between two delayed rows of the outbox, when there was no slot
	delayStepBackingOff = 10 * time.Millisecond // time between two delayed rows of which the gateway or pusher is backing off
	loggedAfter         = 3                     // failures in a row after which a back-off is logged
	loggedAgain         = 24 * time.Hour        // when it is logged again
	maxLogLines         = 10                    // lines that are logged at once; then one in each logLineEvery
	logLineEvery        = time.Minute
	pauseJitter         = 4 // a pause is made shorter by up to a quarter of it
	delayJitter         = 8 // a delay is made longer by up to an eighth of it
)

// health is how a gateway, a user, a user at a gateway, or a pusher did lately.
type health struct {
	badSince     time.Time // when it became slow or failed, and was not well since
	suspectUntil time.Time // after a slow send or a failure
	failures     int       // in a row
	firstFailure time.Time // of these
	lastFailure  time.Time
	backOffUntil time.Time // nothing is sent before
	probe        *slot     // of the send that probes whether it is well again; nil when there is none
	lastDue      time.Time // when the last of the delayed rows of the outbox is due
	loggedAt     time.Time // when the back-off was logged
}

// isForgettable reports whether the record says nothing any more.
func (d *health) isForgettable(now time.Time) bool {
	return now.After(d.suspectUntil) && (d.failures == 0 || now.After(d.lastFailure.Add(2*maxPause)))
}

// isSuspect reports whether it was slow or failed lately, or failed and was not tried since.
func (d *health) isSuspect(now time.Time) bool {
	return d != nil && (d.failures > 0 || now.Before(d.suspectUntil))
}

// isBackingOff reports whether nothing is to be sent.
func (d *health) isBackingOff(now time.Time) bool {
	return d != nil && d.failures > 0 && (now.Before(d.backOffUntil) || d.probe != nil)
}

// recordFailure begins a back-off, with at least the given count of failures. A send that began before the last failure says nothing new.
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

// delay returns how long one more row of the outbox waits: until after the rows before it, one in each delayStep. Without a back-off it
// waits at most for as long as the gateway, user or pusher has not been well.
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

// outcome is how a send ended.
type outcome int

const (
	delivered   outcome = iota
	refused             // it answered with an error
	noAnswer            // it was connected, and did not answer
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

// backOffLog is a line for the log: that a gateway or a pusher backs off, or has recovered.
type backOffLog struct {
	pusher, recovered bool
	firstFailure      time.Time
}

// record notes how a send ended, and whether it was prompt (inTime). It returns what is to be logged.
func (s *sendSlots) record(p *slot, o outcome, inTime bool, now time.Time) (list []backOffLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o == unreachable || o == forbidden {
		markSuspect(s.health, p.user, now) // before the gateway, whose record may evict this one
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

// recordSlow notes that a send was slow: its pusher and its user become suspect, and the gateway when it is slow for most users. The
// caller holds mu.
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
	if t.isSlow() && (t == nil || first || gateway.isSuspect(now)) { // last, as the records of the others may evict it
		s.suspectTheGateway(p, now)
	}
}

// suspectTheGateway makes a gateway suspect; the caller holds mu.
func (s *sendSlots) suspectTheGateway(p *slot, now time.Time) *health {
	if t := s.gateways[p.gateway]; t != nil {
		t.prompt = false
	}
	return markSuspect(s.health, p.gateway, now)
}

// markSuspect makes a name of the records suspect for suspectFor.
func markSuspect(of map[string]*health, name string, now time.Time) *health {
	d := healthOf(of, name, maxHealth, now)
	if !now.Before(d.suspectUntil) {
		d.badSince = now
	}
	d.suspectUntil = now.Add(suspectFor)
	return d
}

// recordAnswer notes that a gateway answered promptly; the caller holds mu.
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

// recordSuccess notes that a gateway took a send promptly; the caller holds mu. When its pusher was suspect, this shows that the gateway
// is no longer slow for the user.
func (s *sendSlots) recordSuccess(p *slot) {
	s.recordAnswer(p)
	if s.pusherHealth[p.pusher] != nil {
		delete(s.pusherHealth, p.pusher)
		delete(s.health, p.atGateway())
	}
	delete(s.health, p.user)
	s.setPromptPusher(p)
}

// endBackOff ends a back-off. It returns what is to be logged. The caller holds mu.
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

// logBackOff returns the line n if the back-off is to be logged now; the caller holds mu.
func (s *sendSlots) logBackOff(d *health, n backOffLog, now time.Time) []backOffLog {
	if d.failures < loggedAfter || !d.loggedAt.IsZero() && now.Sub(d.loggedAt) < loggedAgain || !s.logLimit.allow(now) {
		return nil
	}
	d.loggedAt, n.firstFailure = now, d.firstFailure
	return []backOffLog{n}
}

// healthOf returns the record of a name, and makes it if needed. When there are too many it evicts some that say nothing any more, or
// else any one.
func healthOf(records map[string]*health, name string, most int, now time.Time) *health {
	if d := records[name]; d != nil {
		return d
	}
	if len(records) >= most {
		looked, dropped, last := 0, 0, ""
		for name, d := range records {
			if last = name; d.isForgettable(now) {
				delete(records, name)
				dropped++
			}
			if looked++; looked == sweepAtOnce {
				break
			}
		}
		if dropped == 0 {
			delete(records, last)
		}
	}
	d := &health{}
	records[name] = d
	return d
}

// logLimit limits how many lines are logged.
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

// recordOutcome records what the end of a send says of its gateway and its pusher, and logs back-offs.
func (p *Push) recordOutcome(d *delivery, err error, inTime bool) {
	now := p.Now()
	for _, n := range p.slots.record(&d.slot, outcomeOf(err), inTime, now) {
		log := p.Process.Log.With("gateway", strings.TrimPrefix(d.slot.gateway, gatewayPrefix), "for", now.Sub(n.firstFailure).Round(time.Second))
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

// pauseAfterFailure returns how long a notification waits whose send failed, and how many tries the failure counts: none when the gateway
// was unreachable, which says nothing of the notification.
func (p *Push) pauseAfterFailure(d *delivery, err error) (pause time.Duration, tries int) {
	now := p.Now()
	if o := outcomeOf(err); o != unreachable && o != forbidden {
		pause, tries = min(firstPause<<min(d.tries, maxPauseAfter), maxPause), 1
	}
	pause = max(pause, p.slots.backOffFor(&d.slot, now), shortPause)
	return pause + rand.N(pause/delayJitter), tries
}
