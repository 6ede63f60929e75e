package push

import (
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Users choose their gateways, and a gateway may answer slowly or never. So sends have places, of which those that may be slow get
// few. Each trust has places of its own, so that nobody waits for those who are trusted less.

// trust is what is expected of a send.
type trust int

const (
	trusted   trust = iota // the gateway took a send promptly, and since then it was neither slow nor failed
	unknown                // no send to the gateway was judged yet, or long ago
	suspected              // the gateway is trusted, but another one of the user was slow or failed lately
	doubted                // the gateway was slow or failed lately: it is sent to from the outbox only
)

// share is how many sends of one trust may be under way in a process: in all, to one gateway, for one user.
type share struct{ all, gateway, user int }

var shares = [...]share{trusted: {256, 96, 16}, unknown: {64, 16, 4}, suspected: {64, 16, 4}, doubted: {64, 16, 4}}

const (
	promptly     = 500 * time.Millisecond // how long a gateway may take, and a batch waits for its sends
	doubtFor     = 30 * time.Second
	putOffEach   = 50 * time.Millisecond // what a row of the outbox waits for each that was put off before it
	slowMost     = 256                   // sends that turned out to be slow and count as doubted from then on
	slowUser     = 16                    // of them for one user
	doubtsMost   = 10_000                // gateways and users in doubt that are remembered
	gatewaysMost = 10_000                // gateways remembered that took a send promptly
	sweepAtOnce  = 16                    // doubts that are looked at when there are too many
)

// sendKey names a notification, and its row of the outbox.
type sendKey struct{ user, app, pushkey, event string }

func (n notification) key() sendKey {
	return sendKey{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID}
}

// place is what a send takes.
type place struct {
	key           sendKey
	gateway, user string // as they are counted and doubted
	trust         trust  // under mu while the send is under way
	full          string // of what take found no place: the gateway or the user
}

func placeOf(k sendKey, address string) place {
	gateway := address
	if u, err := url.Parse(address); err == nil {
		gateway = strings.ToLower(u.Host)
	}
	return place{key: k, gateway: "gateway " + gateway, user: "user " + k.user}
}

// places are those that sends of this process have.
type places struct {
	mu      sync.Mutex
	under   map[sendKey]*delivery // under way
	count   map[counted]int
	doubts  map[string]doubt // by gateway and by user
	known   map[string]bool  // gateways that took a send promptly
	freed   chan struct{}    // closed when a place may be free
	running sync.WaitGroup
	closed  bool // the process ends: there are no places any more
}

// counted is what has a number of places: a gateway or a user in one trust, or with no name all of one trust.
type counted struct {
	trust trust
	name  string
}

// doubt is about a gateway or a user.
type doubt struct {
	until time.Time
	rows  int // of the outbox that were put off for it
}

func (s *places) init() {
	s.under, s.count, s.doubts, s.known = map[sendKey]*delivery{}, map[counted]int{}, map[string]doubt{}, map[string]bool{}
	s.freed = make(chan struct{})
}

// trustOf tells what is expected of a send; the caller holds mu.
func (s *places) trustOf(p *place, now time.Time) trust {
	switch {
	case now.Before(s.doubts[p.gateway].until):
		return doubted
	case !s.known[p.gateway]:
		return unknown
	case now.Before(s.doubts[p.user].until):
		return suspected
	}
	return trusted
}

// slow notes that a send under way is slow. It does not keep its place from others who are trusted more.
func (s *places) slow(p *place, now time.Time) {
	s.failed(p, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.under[p.key]
	if d == nil || p != &d.place { // it ended just now
		return
	}
	if p.trust == doubted || s.count[counted{doubted, ""}] >= slowMost || s.count[counted{doubted, p.user}] >= slowUser {
		return
	}
	s.add(p, -1)
	p.trust = doubted
	s.add(p, 1)
	s.wake()
}

// failed notes that a send was slow or failed.
func (s *places) failed(p *place, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, p.gateway)
	for _, name := range []string{p.user, p.gateway} { // in this order, as the second may take the room of the first
		d, there := s.doubts[name]
		if !there && len(s.doubts) >= doubtsMost {
			s.sweep(now)
		}
		s.doubts[name] = doubt{now.Add(doubtFor), d.rows}
	}
}

// sweep makes room for one more doubt: it drops some that are over, else any one. A gateway that is dropped is unknown then. The
// caller holds mu.
func (s *places) sweep(now time.Time) {
	looked, dropped, last := 0, 0, ""
	for name, d := range s.doubts {
		if last = name; now.After(d.until) {
			delete(s.doubts, name)
			dropped++
		}
		if looked++; looked == sweepAtOnce {
			break
		}
	}
	if dropped == 0 {
		delete(s.doubts, last)
	}
}

// prompt notes that a gateway took a send promptly.
func (s *places) prompt(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doubts, p.gateway)
	delete(s.doubts, p.user)
	if !s.known[p.gateway] && len(s.known) >= gatewaysMost {
		for name := range s.known { // any one
			delete(s.known, name)
			break
		}
	}
	s.known[p.gateway] = true
}

// putOff gives how long a row of the outbox waits for which there is no place: few rows wait shortly, as the gateway may be well
// again, and many not so often that they are all the outbox is busy with.
func (s *places) putOff(p *place) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := firstPause
	if d, there := s.doubts[p.gateway]; there {
		d.rows++
		s.doubts[p.gateway] = d
		pause = min(firstPause+time.Duration(d.rows)*putOffEach, doubtFor)
	}
	return pause/2 + rand.N(pause)
}

// Answers of take.
var (
	errNoPlace  = errors.New("there is no place for this notification now")
	errDoubted  = errors.New("the push gateway was slow or failed lately")
	errUnderWay = errors.New("this notification is under way")
	errClosed   = errors.New("the process ends")
)

// take takes a place for a send, if there is one. Errors: errNoPlace, errDoubted unless it comes from the outbox, errClosed, and
// errUnderWay with the one that is.
func (s *places) take(d *delivery, now time.Time) (other *delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &d.place
	p.trust = s.trustOf(p, now)
	if other := s.under[p.key]; other != nil {
		return other, errUnderWay
	}
	most := shares[p.trust]
	switch {
	case s.closed:
		return nil, errClosed
	case p.trust == doubted && !d.again:
		return nil, errDoubted
	case s.count[counted{p.trust, ""}] >= most.all, s.count[counted{p.trust, p.gateway}] >= most.gateway:
		p.full = p.gateway
		return nil, errNoPlace
	case s.count[counted{p.trust, p.user}] >= most.user:
		p.full = p.user
		return nil, errNoPlace
	}
	s.running.Add(1)
	s.under[p.key] = d
	s.add(p, 1)
	return nil, nil
}

// add counts a send in its trust; the caller holds mu.
func (s *places) add(p *place, n int) {
	for _, name := range []string{"", p.gateway, p.user} {
		c := counted{p.trust, name}
		if s.count[c] += n; s.count[c] == 0 {
			delete(s.count, c)
		}
	}
}

// wake tells that a place may be free; the caller holds mu.
func (s *places) wake() {
	close(s.freed)
	s.freed = make(chan struct{})
}

// giveBack ends what take began.
func (s *places) giveBack(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.under, p.key)
	s.add(p, -1)
	s.wake()
	s.running.Done()
}

// next is closed when a place may be free.
func (s *places) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed
}

// close ends the giving of places.
func (s *places) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *places) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
