package push

import (
	"errors"
	"hash/maphash"
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
	suspected              // both are trusted, but something else of the user was slow or failed lately

	// These are sent from the outbox only.

	doubtedGateway // it was slow in general, or not reached, lately
	doubtedPusher  // it was slow lately or failed, or it is not known and another one of the user at the gateway was slow
)

// share is how many sends of one trust may be under way in a process: in all, to one gateway, for one user.
type share struct{ all, gateway, user int }

var shares = [...]share{
	trusted:        {256, 96, 16},
	unknown:        {64, 16, 4},
	suspected:      {64, 16, 4},
	doubtedGateway: {64, 16, 4},
	doubtedPusher:  {64, 32, 2},
}

const (
	promptly     = 500 * time.Millisecond // how long a gateway may take, and a batch waits for its sends
	doubtFor     = 30 * time.Second
	slowMost     = 256    // sends that turned out to be slow and count as those of doubted pushers from then on
	slowUser     = 16     // of them for one user, with those that may become so
	doubtsMost   = 10_000 // gateways and users in doubt that are remembered, and as many pushers
	gatewaysMost = 10_000 // gateways remembered that took a send promptly once
	sweepAtOnce  = 16     // doubts that are looked at when there are too many
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
	pusher        string // as it is doubted and left alone: at its gateway, as its user may give it another one while a send is under way
	trust         trust  // under mu while the send is under way
	full          string // of what take found no place: the gateway or the user
	began         time.Time
}

const ofGateway, ofUser = "gateway ", "user " // before their names

// placeOf names a gateway by what a connection to it is made of, which is the same for all its users.
func placeOf(k sendKey, address string) place {
	gateway := address
	if u, err := url.Parse(address); err == nil {
		gateway = strings.ToLower(u.Scheme + "://" + u.Host)
	}
	return place{
		key:     k,
		gateway: ofGateway + gateway,
		user:    ofUser + k.user,
		pusher:  strings.Join([]string{k.user, k.app, k.pushkey, gateway}, "\x00"),
	}
}

// atGateway names a user at a gateway.
func (p *place) atGateway() string { return p.user + " " + p.gateway }

// places are those that sends of this process have.
type places struct {
	mu       sync.Mutex
	under    map[sendKey]*delivery // under way
	count    map[counted]int
	doubts   map[string]*doubt // by gateway, by user, and by user at a gateway
	pushers  map[string]*doubt
	known    map[string]*tally // gateways that took a send promptly once
	seed     maphash.Seed
	prompted map[uint64]bool // hashes of pushers whose last send was prompt
	lines    lines
	freed    chan struct{} // closed when a place may be free
	running  sync.WaitGroup
	closed   bool // the process ends: there are no places any more
}

// counted is what has a number of places: a gateway or a user in one trust, or with no name all of one trust.
type counted struct {
	trust trust
	name  string
}

func (s *places) init() {
	s.under, s.count, s.doubts, s.pushers, s.known = map[sendKey]*delivery{}, map[counted]int{}, map[string]*doubt{}, map[string]*doubt{},
		map[string]*tally{}
	s.seed, s.prompted = maphash.MakeSeed(), map[uint64]bool{}
	s.freed = make(chan struct{})
}

// trustOf tells what is expected of a send; the caller holds mu.
func (s *places) trustOf(p *place, now time.Time) trust {
	switch {
	case s.pushers[p.pusher].holds(now), s.doubts[p.atGateway()].holds(now) && !s.wasPrompt(p):
		return doubtedPusher
	case s.doubts[p.gateway].holds(now):
		return doubtedGateway
	case !s.isWell(p.gateway):
		return unknown
	case s.doubts[p.user].holds(now):
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
	if p.trust >= doubtedGateway || s.count[counted{doubtedPusher, ""}] >= slowMost || s.count[counted{doubtedPusher, p.user}] >= slowUser {
		return
	}
	s.add(p, -1)
	p.trust = doubtedPusher
	s.add(p, 1)
	s.wake()
}

// failed notes that a send was slow or failed.
func (s *places) failed(p *place, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspect(p, now)
}

// prompt notes that a gateway took a send promptly.
func (s *places) prompt(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took(p)
}

// putOff gives how long a row of the outbox waits that is not sent now: few rows wait shortly, and many not so often that they are all
// the outbox is busy with. What is left alone is waited for.
func (s *places) putOff(p *place, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := firstPause/2 + rand.N(firstPause)
	gateway, pusher := s.doubts[p.gateway], s.pushers[p.pusher]
	alone := pusher.isAlone(now)
	if alone {
		pause = max(pause, pusher.putOff(now))
	} else if at := s.doubts[p.atGateway()]; at != nil && s.trustOf(p, now) == doubtedPusher {
		pause = max(pause, at.putOff(now))
	}
	if gateway != nil && (!alone || gateway.isAlone(now)) { // rows that wait for their pushers are in the way of no others
		pause = max(pause, gateway.putOff(now))
	}
	return pause
}

// isAlone tells that nothing is to be sent to a gateway, or for a pusher.
func (s *places) isAlone(p *place, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubts[p.gateway].isAlone(now) || s.pushers[p.pusher].isAlone(now)
}

// aloneFor gives for how long.
func (s *places) aloneFor(p *place, now time.Time) (rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range []*doubt{s.doubts[p.gateway], s.pushers[p.pusher]} {
		if d != nil && d.fails > 0 {
			rest = max(rest, d.alone.Sub(now))
		}
	}
	return rest
}

// Answers of take.
var (
	errNoPlace  = errors.New("there is no place for this notification now")
	errAlone    = errors.New("the push gateway failed, or does so for this pusher, and is left alone")
	errDoubted  = errors.New("the push gateway was slow or failed lately, or did so for this user")
	errUnderWay = errors.New("this notification is under way")
	errClosed   = errors.New("the process ends")
)

// take takes a place for a send, if there is one. Errors: errNoPlace, errAlone, errDoubted unless it comes from the outbox, errClosed,
// and errUnderWay with the one that is.
func (s *places) take(d *delivery, now time.Time) (other *delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &d.place
	if p.trust = s.trustOf(p, now); s.isSlowFor(p) {
		p.trust = doubtedPusher
	}
	if other := s.under[p.key]; other != nil {
		return other, errUnderWay
	}
	gateway, pusher := s.doubts[p.gateway], s.pushers[p.pusher]
	most := shares[p.trust]
	switch {
	case s.closed:
		return nil, errClosed
	case gateway.isAlone(now), pusher.isAlone(now):
		return nil, errAlone
	case p.trust >= doubtedGateway && !d.again:
		return nil, errDoubted
	case s.count[counted{p.trust, ""}] >= most.all, s.count[counted{p.trust, p.gateway}] >= most.gateway:
		p.full = p.gateway
		return nil, errNoPlace
	case s.count[counted{p.trust, p.user}] >= most.user:
		p.full = p.user
		return nil, errNoPlace
	}
	for _, of := range []*doubt{gateway, pusher} {
		if of != nil && of.fails > 0 {
			of.probe = p
		}
	}
	p.began = now
	s.running.Add(1)
	s.under[p.key] = d
	s.add(p, 1)
	return nil, nil
}

// isSlowFor tells that a user has many slow sends under way: if one more turned out to be slow, it would keep its place from others. The
// caller holds mu.
func (s *places) isSlowFor(p *place) bool {
	slow := s.count[counted{doubtedPusher, p.user}]
	return p.trust < doubtedGateway && slow > 0 && slow+s.count[counted{p.trust, p.user}] >= slowUser
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
	for _, of := range []*doubt{s.doubts[p.gateway], s.pushers[p.pusher]} {
		if of != nil && of.probe == p {
			of.probe = nil
		}
	}
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
