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
	longestPause = 5 * time.Minute       // in which something is left alone, and between two tries of a row of the outbox
	longestAfter = 10                    // failures in a row after which the pause is the longest
	putOffEach   = 50 * time.Millisecond // between two rows of the outbox that were put off as there was no place
	putOffAlone  = 10 * time.Millisecond // between two that were put off as their gateway or pusher is left alone
	loggedAfter  = 3                     // failures in a row after which it is logged
	loggedAgain  = 24 * time.Hour
	loggedMost   = 10 // lines at once; then one a minute
	loggedEach   = time.Minute
	pauseJitter  = 4 // a pause is shorter by up to this part of it
	putOffJitter = 8 // and what waits does so for longer by up to this part
)

// doubt is about a gateway, a user, a user at a gateway, or a pusher.
type doubt struct {
	from   time.Time // it was slow or failed, and not well since
	until  time.Time // it was so lately
	fails  int       // in a row
	since  time.Time // when the first of them was
	last   time.Time // when the last was
	alone  time.Time // nothing is sent up to then
	probe  *place    // of the send that tries whether it is well again
	due    time.Time // when the last row of the outbox is due that was put off for it
	logged time.Time // that it is left alone
}

// isOver tells that there is no reason to remember it.
func (d *doubt) isOver(now time.Time) bool {
	return now.After(d.until) && (d.fails == 0 || now.After(d.last.Add(2*longestPause)))
}

// holds tells that it was slow or failed lately, or failed and was not tried since.
func (d *doubt) holds(now time.Time) bool { return d != nil && (d.fails > 0 || now.Before(d.until)) }

// isAlone tells that nothing is to be sent.
func (d *doubt) isAlone(now time.Time) bool {
	return d != nil && d.fails > 0 && (now.Before(d.alone) || d.probe != nil)
}

// fail begins a pause. A send that began before the last pause says nothing new.
func (d *doubt) fail(began, now time.Time, atLeast int) {
	if d.fails > 0 && began.Before(d.last) {
		return
	}
	if d.fails == 0 {
		d.since = now
	}
	d.fails = max(d.fails+1, atLeast)
	d.last = now
	pause := min(firstPause<<min(d.fails-1, longestAfter), longestPause)
	d.alone = now.Add(pause - rand.N(pause/pauseJitter))
	d.due = d.alone
}

// putOff gives how long one more row of the outbox waits: behind those before it, which are sent at a pace, but for no longer than what
// is not left alone was not well.
func (d *doubt) putOff(now time.Time) time.Duration {
	each, most := putOffEach, min(max(now.Sub(d.from), doubtFor), longestPause)
	if d.fails > 0 {
		each, most = putOffAlone, longestPause
	}
	if d.due.Before(now) {
		d.due = now
	}
	d.due = d.due.Add(each)
	wait := d.due.Sub(now)
	if wait > most {
		d.due = now.Add(most)
		wait = max(d.alone.Sub(now), most/2+rand.N(most/2))
	}
	return wait + rand.N(wait/putOffJitter+1)
}

// outcome is how a gateway took a send.
type outcome int

const (
	took      outcome = iota
	refused           // it answered with an error
	silent            // it was connected, and gave no answer
	unreached         // it could not be connected to
	forbidden         // it is at an address that must not be connected to
)

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return took
	case errors.Is(err, dial.ErrPrivate):
		return forbidden
	case errors.Is(err, errUnreached):
		return unreached
	case errors.Is(err, errRefused):
		return refused
	}
	return silent
}

// news is a line for the log: of a gateway or of a pusher, which is left alone or no longer.
type news struct {
	pusher, back bool
	since        time.Time
}

// judge notes how a send ended, and whether within the time of promptly. It gives what is to be logged.
func (s *places) judge(p *place, o outcome, inTime bool, now time.Time) (list []news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o == unreached || o == forbidden {
		inDoubt(s.doubts, p.user, now) // before the next, which may take its room
		d, least := s.doubtGateway(p, now), 0
		if o == forbidden {
			least = longestAfter
		}
		d.fail(p.began, now, least)
		return s.report(d, news{}, now)
	}
	list = s.connected(s.doubts[p.gateway], news{back: true}, now)
	d := s.pushers[p.pusher]
	switch {
	case o == silent, !inTime:
		s.suspect(p, now)
		d = s.pushers[p.pusher]
	case o == took:
		s.took(p)
	default:
		s.well(p)
	}
	if o == took {
		return append(list, s.connected(d, news{pusher: true, back: true}, now)...)
	}
	if d == nil {
		d = remember(s.pushers, p.pusher, doubtsMost, now)
	}
	d.fail(p.began, now, 0)
	return append(list, s.report(d, news{pusher: true}, now)...)
}

// suspect notes that a send was slow: its pusher and its user are in doubt, and the gateway when it is slow for most users. The caller
// holds mu.
func (s *places) suspect(p *place, now time.Time) {
	t, gateway := s.known[p.gateway], s.doubts[p.gateway]
	first := !s.pushers[p.pusher].holds(now)
	if t != nil && first {
		t.count(verdict{s.hash(p.user), true})
	}
	delete(s.prompted, s.hash(p.pusher))
	inDoubt(s.pushers, p.pusher, now)
	inDoubt(s.doubts, p.user, now)
	inDoubt(s.doubts, p.atGateway(), now)
	if t.isSlow() && (t == nil || first || gateway.holds(now)) { // last, as the others may take its room
		s.doubtGateway(p, now)
	}
}

// doubtGateway puts a gateway in doubt; the caller holds mu.
func (s *places) doubtGateway(p *place, now time.Time) *doubt {
	if t := s.known[p.gateway]; t != nil {
		t.well = false
	}
	return inDoubt(s.doubts, p.gateway, now)
}

// inDoubt puts what has a name in doubt for some time.
func inDoubt(of map[string]*doubt, name string, now time.Time) *doubt {
	d := remember(of, name, doubtsMost, now)
	if !now.Before(d.until) {
		d.from = now
	}
	d.until = now.Add(doubtFor)
	return d
}

// well notes that a gateway answered promptly; the caller holds mu.
func (s *places) well(p *place) {
	delete(s.doubts, p.gateway)
	t := s.known[p.gateway]
	if t == nil {
		makeRoom(s.known, gatewaysMost)
		t = &tally{}
		s.known[p.gateway] = t
	}
	t.well = true
	t.count(verdict{s.hash(p.user), false})
}

// took notes that a gateway took a send promptly; the caller holds mu. That a pusher is so which was in doubt tells that the gateway is
// no longer slow for its user.
func (s *places) took(p *place) {
	s.well(p)
	if s.pushers[p.pusher] != nil {
		delete(s.pushers, p.pusher)
		delete(s.doubts, p.atGateway())
	}
	delete(s.doubts, p.user)
	s.setPrompt(p)
}

// connected ends that something is left alone; the caller holds mu.
func (s *places) connected(d *doubt, n news, now time.Time) []news {
	if d == nil || d.fails == 0 {
		return nil
	}
	logged := !d.logged.IsZero()
	n.since = d.since
	*d = doubt{from: d.from, until: d.until, due: now}
	if logged && s.lines.take(now) {
		return []news{n}
	}
	return nil
}

// report tells whether it is to be logged that something is left alone; the caller holds mu.
func (s *places) report(d *doubt, n news, now time.Time) []news {
	if d.fails < loggedAfter || !d.logged.IsZero() && now.Sub(d.logged) < loggedAgain || !s.lines.take(now) {
		return nil
	}
	d.logged, n.since = now, d.since
	return []news{n}
}

// remember gives the doubt of a name. When there are too many it makes room: it drops some that are over, else any one, which is
// unknown then.
func remember(doubts map[string]*doubt, name string, most int, now time.Time) *doubt {
	if d := doubts[name]; d != nil {
		return d
	}
	if len(doubts) >= most {
		looked, dropped, last := 0, 0, ""
		for name, d := range doubts {
			if last = name; d.isOver(now) {
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
	d := &doubt{}
	doubts[name] = d
	return d
}

// lines are those that may be logged.
type lines struct {
	used int
	last time.Time
}

func (l *lines) take(now time.Time) bool {
	if passed := int(now.Sub(l.last) / loggedEach); passed > 0 {
		l.used, l.last = max(0, l.used-passed), now
	}
	if l.used == loggedMost {
		return false
	}
	l.used++
	return true
}

// judge notes what a send says of its gateway and of its pusher.
func (p *Push) judge(d *delivery, err error, inTime bool) {
	now := p.Now()
	for _, n := range p.places.judge(&d.place, outcomeOf(err), inTime, now) {
		log := p.Process.Log.With("gateway", strings.TrimPrefix(d.place.gateway, ofGateway), "for", now.Sub(n.since).Round(time.Second))
		if n.pusher {
			log = log.With("user", d.pusher.UserID, "app", d.pusher.AppID)
		}
		switch {
		case n.pusher && n.back:
			log.Info("a push gateway takes the notifications of a pusher again")
		case n.pusher:
			log.Info("a push gateway does not take the notifications of a pusher, they are sent again after growing pauses", "error", err)
		case n.back:
			log.Info("a push gateway is reached again")
		default:
			log.Info("a push gateway is not reached, it is left alone for growing pauses", "error", err)
		}
	}
}

// pauseAfter gives how long a notification waits whose send failed, and how many tries that counts: none when the gateway was not reached,
// which says nothing of the notification.
func (p *Push) pauseAfter(d *delivery, err error) (pause time.Duration, tries int) {
	now := p.Now()
	if o := outcomeOf(err); o != unreached && o != forbidden {
		pause, tries = min(firstPause<<min(d.tries, longestAfter), longestPause), 1
	}
	pause = max(pause, p.places.aloneFor(&d.place, now), shortPause)
	return pause + rand.N(pause/putOffJitter), tries
}
