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
type trustLevel int

const (
	trusted     trustLevel = iota // the gateway took a send promptly, and since then it was neither slow nor failed
	untried                       // no send to the gateway was judged yet, or long ago
	suspectUser                   // both are trusted, but something else of the user was slow or failed lately

	// These are sent from the outbox only.

	suspectGateway // it was slow in general, or not reached, lately
	suspectPusher  // it was slow lately or failed, or it is not known and another one of the user at the gateway was slow
)

// share is how many sends of one trust may be under way in a process: in all, to one gateway, for one user.
type slotLimit struct{ all, gateway, user int }

var slotLimits = [...]slotLimit{
	trusted:        {256, 96, 16},
	untried:        {64, 16, 4},
	suspectUser:    {64, 16, 4},
	suspectGateway: {64, 16, 4},
	suspectPusher:  {64, 32, 2},
}

const (
	promptly      = 500 * time.Millisecond // how long a gateway may take, and a batch waits for its sends
	suspectFor    = 30 * time.Second
	maxSlow       = 256    // sends that turned out to be slow and count as those of doubted pushers from then on
	maxSlowOfUser = 16     // of them for one user, with those that may become so
	maxHealth     = 10_000 // gateways and users in doubt that are remembered, and as many pushers
	maxGateways   = 10_000 // gateways remembered that took a send promptly once
	sweepAtOnce   = 16     // doubts that are looked at when there are too many
)

// sendKey names a notification, and its row of the outbox.
type sendKey struct{ user, app, pushkey, event string }

func (n notification) key() sendKey {
	return sendKey{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID}
}

// place is what a send takes.
type slot struct {
	key           sendKey
	gateway, user string     // as they are counted and doubted
	pusher        string     // as it is doubted and left alone: at its gateway, as its user may give it another one while a send is under way
	trust         trustLevel // under mu while the send is under way
	exhausted     string     // of what take found no place: the gateway or the user
	began         time.Time
}

const gatewayPrefix, userPrefix = "gateway ", "user " // before their names

// placeOf names a gateway by what a connection to it is made of, which is the same for all its users.
func slotOf(k sendKey, address string) slot {
	gateway := address
	if u, err := url.Parse(address); err == nil {
		gateway = strings.ToLower(u.Scheme + "://" + u.Host)
	}
	return slot{
		key:     k,
		gateway: gatewayPrefix + gateway,
		user:    userPrefix + k.user,
		pusher:  strings.Join([]string{k.user, k.app, k.pushkey, gateway}, "\x00"),
	}
}

// atGateway names a user at a gateway.
func (p *slot) atGateway() string { return p.user + " " + p.gateway }

// places are those that sends of this process have.
type sendSlots struct {
	mu            sync.Mutex
	inFlight      map[sendKey]*delivery // under way
	used          map[slotCount]int
	health        map[string]*health // by gateway, by user, and by user at a gateway
	pusherHealth  map[string]*health
	gateways      map[string]*gatewayVerdicts // gateways that took a send promptly once
	seed          maphash.Seed
	promptPushers map[uint64]bool // hashes of pushers whose last send was prompt
	logLimit      logLimit
	freed         chan struct{} // closed when a place may be free
	running       sync.WaitGroup
	closed        bool // the process ends: there are no places any more
}

// counted is what has a number of places: a gateway or a user in one trust, or with no name all of one trust.
type slotCount struct {
	trust trustLevel
	name  string
}

func (s *sendSlots) init() {
	s.inFlight, s.used, s.health, s.pusherHealth, s.gateways = map[sendKey]*delivery{}, map[slotCount]int{}, map[string]*health{}, map[string]*health{},
		map[string]*gatewayVerdicts{}
	s.seed, s.promptPushers = maphash.MakeSeed(), map[uint64]bool{}
	s.freed = make(chan struct{})
}

// trustOf tells what is expected of a send; the caller holds mu.
func (s *sendSlots) trustOf(p *slot, now time.Time) trustLevel {
	switch {
	case s.pusherHealth[p.pusher].isSuspect(now), s.health[p.atGateway()].isSuspect(now) && !s.isPromptPusher(p):
		return suspectPusher
	case s.health[p.gateway].isSuspect(now):
		return suspectGateway
	case !s.isPrompt(p.gateway):
		return untried
	case s.health[p.user].isSuspect(now):
		return suspectUser
	}
	return trusted
}

// slow notes that a send under way is slow. It does not keep its place from others who are trusted more.
func (s *sendSlots) markSlow(p *slot, now time.Time) {
	s.sendFailed(p, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.inFlight[p.key]
	if d == nil || p != &d.place { // it ended just now
		return
	}
	if p.trust >= suspectGateway || s.used[slotCount{suspectPusher, ""}] >= maxSlow || s.used[slotCount{suspectPusher, p.user}] >= maxSlowOfUser {
		return
	}
	s.add(p, -1)
	p.trust = suspectPusher
	s.add(p, 1)
	s.wake()
}

// failed notes that a send was slow or failed.
func (s *sendSlots) sendFailed(p *slot, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordSlow(p, now)
}

// prompt notes that a gateway took a send promptly.
func (s *sendSlots) sendPrompt(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordSuccess(p)
}

// putOff gives how long a row of the outbox waits that is not sent now: few rows wait shortly, and many not so often that they are all
// the outbox is busy with. What is left alone is waited for.
func (s *sendSlots) delay(p *slot, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := firstPause/2 + rand.N(firstPause)
	gateway, pusher := s.health[p.gateway], s.pusherHealth[p.pusher]
	alone := pusher.isBackingOff(now)
	if alone {
		pause = max(pause, pusher.delay(now))
	} else if at := s.health[p.atGateway()]; at != nil && s.trustOf(p, now) == suspectPusher {
		pause = max(pause, at.delay(now))
	}
	if gateway != nil && (!alone || gateway.isBackingOff(now)) { // rows that wait for their pushers are in the way of no others
		pause = max(pause, gateway.delay(now))
	}
	return pause
}

// isAlone tells that nothing is to be sent to a gateway, or for a pusher.
func (s *sendSlots) isBackingOff(p *slot, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health[p.gateway].isBackingOff(now) || s.pusherHealth[p.pusher].isBackingOff(now)
}

// aloneFor gives for how long.
func (s *sendSlots) backOffFor(p *slot, now time.Time) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range []*health{s.health[p.gateway], s.pusherHealth[p.pusher]} {
		if d != nil && d.failures > 0 {
			wait = max(wait, d.backOffUntil.Sub(now))
		}
	}
	return wait
}

// Answers of take.
var (
	errNoSlot     = errors.New("there is no place for this notification now")
	errBackingOff = errors.New("the push gateway failed, or does so for this pusher, and is left alone")
	errSuspect    = errors.New("the push gateway was slow or failed lately, or did so for this user")
	errInFlight   = errors.New("this notification is under way")
	errClosed     = errors.New("the process ends")
)

// take takes a place for a send, if there is one. Errors: errNoPlace, errAlone, errDoubted unless it comes from the outbox, errClosed,
// and errUnderWay with the one that is.
func (s *sendSlots) acquire(d *delivery, now time.Time) (other *delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &d.place
	if p.trust = s.trustOf(p, now); s.isSlowFor(p) {
		p.trust = suspectPusher
	}
	if other := s.inFlight[p.key]; other != nil {
		return other, errInFlight
	}
	gateway, pusher := s.health[p.gateway], s.pusherHealth[p.pusher]
	most := slotLimits[p.trust]
	switch {
	case s.closed:
		return nil, errClosed
	case gateway.isBackingOff(now), pusher.isBackingOff(now):
		return nil, errBackingOff
	case p.trust >= suspectGateway && !d.fromOutbox:
		return nil, errSuspect
	case s.used[slotCount{p.trust, ""}] >= most.all, s.used[slotCount{p.trust, p.gateway}] >= most.gateway:
		p.exhausted = p.gateway
		return nil, errNoSlot
	case s.used[slotCount{p.trust, p.user}] >= most.user:
		p.exhausted = p.user
		return nil, errNoSlot
	}
	for _, of := range []*health{gateway, pusher} {
		if of != nil && of.failures > 0 {
			of.probe = p
		}
	}
	p.began = now
	s.running.Add(1)
	s.inFlight[p.key] = d
	s.add(p, 1)
	return nil, nil
}

// isSlowFor tells that a user has many slow sends under way: if one more turned out to be slow, it would keep its place from others. The
// caller holds mu.
func (s *sendSlots) isSlowFor(p *slot) bool {
	slow := s.used[slotCount{suspectPusher, p.user}]
	return p.trust < suspectGateway && slow > 0 && slow+s.used[slotCount{p.trust, p.user}] >= maxSlowOfUser
}

// add counts a send in its trust; the caller holds mu.
func (s *sendSlots) add(p *slot, n int) {
	for _, name := range []string{"", p.gateway, p.user} {
		c := slotCount{p.trust, name}
		if s.used[c] += n; s.used[c] == 0 {
			delete(s.used, c)
		}
	}
}

// wake tells that a place may be free; the caller holds mu.
func (s *sendSlots) wake() {
	close(s.freed)
	s.freed = make(chan struct{})
}

// giveBack ends what take began.
func (s *sendSlots) release(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inFlight, p.key)
	for _, of := range []*health{s.health[p.gateway], s.pusherHealth[p.pusher]} {
		if of != nil && of.probe == p {
			of.probe = nil
		}
	}
	s.add(p, -1)
	s.wake()
	s.running.Done()
}

// next is closed when a place may be free.
func (s *sendSlots) freedSignal() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed
}

// close ends the giving of places.
func (s *sendSlots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *sendSlots) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
