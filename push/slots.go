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

// Users choose their gateways, and a gateway may answer slowly or never. So each send takes a slot, and there are few slots for sends that
// may be slow. Each trust level has slots of its own, so that no send waits for one that is trusted less.

// trustLevel says how a send is expected to go.
type trustLevel int

const (
	trusted     trustLevel = iota // the gateway took a send slowAfter, and was neither slow nor unreachable since
	untried                       // no send to the gateway has ended yet, or its result is forgotten
	suspectUser                   // gateway and pusher are trusted, but another pusher of the user was slow or failed lately

	// Sends with the following levels are started from the outbox only.

	suspectGateway // the gateway was slow for most users, or unreachable, lately
	suspectPusher  // the pusher was slow lately or failed, or it is new and another one of the user at the gateway was slow
)

// slotLimit is how many sends of one trust level may be in flight in a process: in all, to one gateway, for one user.
type slotLimit struct{ all, gateway, user int }

var slotLimits = [...]slotLimit{
	trusted:        {256, 96, 16},
	untried:        {64, 16, 4},
	suspectUser:    {64, 16, 4},
	suspectGateway: {64, 16, 4},
	suspectPusher:  {64, 32, 2},
}

const (
	slowAfter     = 500 * time.Millisecond // a send that takes longer is slow
	suspectFor    = 30 * time.Second       // how long something is suspect after a slow send or a failure
	maxSlow       = 256                    // slow sends that may be moved to the level suspectPusher while they are in flight
	maxSlowOfUser = 16                     // of these for one user, with the sends that may become slow
	maxHealth     = 10_000                 // records of gateways and users that are kept, and as many of pushers
	maxGateways   = 10_000                 // gateways whose verdicts are kept
	sweepAtOnce   = 16                     // records that are looked at when there are too many
)

// sendKey names a notification, and its row of the outbox.
type sendKey struct{ user, app, pushkey, event string }

// slot is what a send takes while it is in flight.
type slot struct {
	key           sendKey
	gateway, user string     // names by which slots are counted and health is recorded
	pusher        string     // name by which its health is recorded; it contains the gateway, as the user may change that during a send
	trust         trustLevel // guarded by sendSlots.mu while the send is in flight
	exhausted     string     // when acquire found no slot: the gateway or the user that has none
	began         time.Time
}

// gatewayPrefix and userPrefix begin the names of gateways and users.
const gatewayPrefix, userPrefix = "gateway ", "user "

// slotOf makes a slot. The name of the gateway is the part of the address that says how to connect, so it is the same for all users.
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

// atGateway returns the name of a user at a gateway.
func (p *slot) atGateway() string { return p.user + " " + p.gateway }

// sendSlots counts the sends of this process, and records how gateways, users and pushers did (health.go).
type sendSlots struct {
	mu            sync.Mutex
	inFlight      map[sendKey]*delivery
	used          map[slotCount]int
	health        map[string]*health // by gateway, by user, and by user at a gateway
	pusherHealth  map[string]*health
	gateways      map[string]*gatewayVerdicts // by gateway, once one answered promptly
	seed          maphash.Seed
	promptPushers map[uint64]bool // hashes of pushers whose last send was prompt
	logLimit      logLimit
	freed         chan struct{} // closed when a slot may be free; then replaced
	running       sync.WaitGroup
	closed        bool // the process ends, so acquire fails
}

// slotCount names a count of slots: of a gateway or a user in one trust level; without a name, of all in the level.
type slotCount struct {
	trust trustLevel
	name  string
}

func (s *sendSlots) init() {
	s.inFlight, s.used = map[sendKey]*delivery{}, map[slotCount]int{}
	s.health, s.pusherHealth = map[string]*health{}, map[string]*health{}
	s.gateways, s.promptPushers = map[string]*gatewayVerdicts{}, map[uint64]bool{}
	s.seed = maphash.MakeSeed()
	s.freed = make(chan struct{})
}

// trustOf returns the trust level of a send; the caller holds mu.
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

// markSlow notes that a send in flight is slow. It moves the send to the level suspectPusher, so that its slot is free for others.
func (s *sendSlots) markSlow(p *slot, now time.Time) {
	s.sendFailed(p, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.inFlight[p.key]
	if d == nil || p != &d.slot { // the send has just ended
		return
	}
	if p.trust >= suspectGateway ||
		s.used[slotCount{suspectPusher, ""}] >= maxSlow || s.used[slotCount{suspectPusher, p.user}] >= maxSlowOfUser {
		return
	}
	s.add(p, -1)
	p.trust = suspectPusher
	s.add(p, 1)
	s.wake()
}

// sendFailed notes that a send was slow or failed.
func (s *sendSlots) sendFailed(p *slot, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordSlow(p, now)
}

// sendPrompt notes that a gateway took a send promptly.
func (s *sendSlots) sendPrompt(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordSuccess(p)
}

// delay returns how long a row of the outbox waits that is not sent now. Few rows wait for a short time; many wait longer, so that the
// outbox is not busy with them alone. A row whose gateway or pusher is backing off waits until that ends.
func (s *sendSlots) delay(p *slot, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := firstPause/2 + rand.N(firstPause)
	gateway, pusher := s.health[p.gateway], s.pusherHealth[p.pusher]
	backingOff := pusher.isBackingOff(now)
	if backingOff {
		pause = max(pause, pusher.delay(now))
	} else if at := s.health[p.atGateway()]; at != nil && s.trustOf(p, now) == suspectPusher {
		pause = max(pause, at.delay(now))
	}
	if gateway != nil && (!backingOff || gateway.isBackingOff(now)) { // rows that wait for their pusher do not delay other rows
		pause = max(pause, gateway.delay(now))
	}
	return pause
}

// isBackingOff reports whether nothing is to be sent to the gateway, or for the pusher.
func (s *sendSlots) isBackingOff(p *slot, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health[p.gateway].isBackingOff(now) || s.pusherHealth[p.pusher].isBackingOff(now)
}

// backOffFor returns for how long nothing is to be sent to the gateway or for the pusher.
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

// Errors of acquire.
var (
	errNoSlot     = errors.New("there is no slot for this notification now")
	errBackingOff = errors.New("the push gateway failed, or did so for this pusher, and is backing off")
	errSuspect    = errors.New("the push gateway was slow or failed lately, or did so for this user")
	errInFlight   = errors.New("this notification is being sent")
	errClosed     = errors.New("the process ends")
)

// acquire takes a slot for a send, without waiting. It returns errNoSlot, errBackingOff, errClosed, errSuspect for a send that must be
// started from the outbox and is not, or errInFlight with the delivery of the same notification that is in flight.
func (s *sendSlots) acquire(d *delivery, now time.Time) (other *delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &d.slot
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

// isSlowFor reports whether a user has many slow sends in flight, so that one more could not be moved to the level suspectPusher if it
// turned out to be slow. The caller holds mu.
func (s *sendSlots) isSlowFor(p *slot) bool {
	slow := s.used[slotCount{suspectPusher, p.user}]
	return p.trust < suspectGateway && slow > 0 && slow+s.used[slotCount{p.trust, p.user}] >= maxSlowOfUser
}

// add adds n to the counts of a send's trust level; the caller holds mu.
func (s *sendSlots) add(p *slot, n int) {
	for _, name := range []string{"", p.gateway, p.user} {
		c := slotCount{p.trust, name}
		if s.used[c] += n; s.used[c] == 0 {
			delete(s.used, c)
		}
	}
}

// wake signals that a slot may be free; the caller holds mu.
func (s *sendSlots) wake() {
	close(s.freed)
	s.freed = make(chan struct{})
}

// release gives a slot back.
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

// freedSignal returns a channel that is closed when a slot may be free.
func (s *sendSlots) freedSignal() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed
}

// close makes acquire fail from now on.
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
