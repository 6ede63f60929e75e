package push

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"lyceum/platform/db"
)

// Users choose their gateways, and a gateway may answer slowly or never. So sends have places, of which those to gateways, or for
// users, that were slow or failed lately get a small part, and nobody waits for a send longer than a moment: what is not done by
// then waits in the outbox, from where it is tried again.
const (
	sendsMost      = 256                    // sends under way in a process
	sendsGateway   = 96                     // of them to one gateway
	sendsUser      = 16                     // of them for one user
	doubtedMost    = 64                     // of them to or for those in doubt
	doubtedGateway = 16                     // of these to one gateway
	doubtedUser    = 4                      // of these for one user
	promptly       = 500 * time.Millisecond // how long a batch waits for its sends
	doubtFor       = 30 * time.Second
	underWay       = sendWithin + 5*time.Second // when a send of which nothing is known is tried again
)

// sendKey names a notification, and its row of the outbox.
type sendKey struct{ user, app, pushkey, event string }

func (n notification) key() sendKey {
	return sendKey{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID}
}

// sends are those under way in this process.
type sends struct {
	mu      sync.Mutex
	keys    map[sendKey]bool
	doubted int
	count   map[string]int       // by gateway and by user
	doubts  map[string]time.Time // the same, until when
	freed   chan struct{}        // closed when one ends
	running sync.WaitGroup
	closed  bool // the process ends: there are no places any more
}

func (s *sends) init() {
	s.keys, s.count, s.doubts, s.freed = map[sendKey]bool{}, map[string]int{}, map[string]time.Time{}, make(chan struct{})
}

// place is what a send takes.
type place struct {
	key           sendKey
	gateway, user string // in count and doubts
	doubted       bool
}

func placeOf(k sendKey, address string) place {
	gateway := address
	if u, err := url.Parse(address); err == nil {
		gateway = strings.ToLower(u.Host)
	}
	return place{key: k, gateway: "gateway " + gateway, user: "user " + k.user}
}

// inDoubt tells whether a send is to or for somebody in doubt; the caller holds mu.
func (s *sends) inDoubt(p place, now time.Time) bool {
	return now.Before(s.doubts[p.gateway]) || now.Before(s.doubts[p.user])
}

// doubt notes that a send was slow or failed.
func (s *sends) doubt(p place, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.doubts) >= roomsKnown {
		for name, until := range s.doubts {
			if now.After(until) {
				delete(s.doubts, name)
			}
		}
	}
	if len(s.doubts) < roomsKnown {
		s.doubts[p.gateway], s.doubts[p.user] = now.Add(doubtFor), now.Add(doubtFor)
	}
}

// Answers of begin.
var (
	errNoPlace  = errors.New("there is no place for this notification now")
	errDoubted  = errors.New("the push gateway, or another one of this user, was slow or failed lately")
	errUnderWay = errors.New("this notification is under way")
)

// begin takes a place, if there is one. Errors: errNoPlace, errDoubted unless those are wanted, errUnderWay.
func (s *sends) begin(p *place, doubted bool, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gateway, user := sendsGateway, sendsUser
	if p.doubted = s.inDoubt(*p, now); p.doubted {
		gateway, user = doubtedGateway, doubtedUser
	}
	switch {
	case s.keys[p.key]:
		return errUnderWay
	case p.doubted && !doubted:
		return errDoubted
	case s.closed, len(s.keys) >= sendsMost, p.doubted && s.doubted >= doubtedMost, s.count[p.gateway] >= gateway, s.count[p.user] >= user:
		return errNoPlace
	}
	s.running.Add(1)
	s.keys[p.key] = true
	s.count[p.gateway]++
	s.count[p.user]++
	if p.doubted {
		s.doubted++
	}
	return nil
}

// end gives a place back.
func (s *sends) end(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, p.key)
	for _, name := range []string{p.gateway, p.user} {
		if s.count[name]--; s.count[name] == 0 {
			delete(s.count, name)
		}
	}
	if p.doubted {
		s.doubted--
	}
	close(s.freed)
	s.freed = make(chan struct{})
	s.running.Done()
}

// trust ends the doubts about those who took a send at once.
func (s *sends) trust(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doubts, p.gateway)
	delete(s.doubts, p.user)
}

// next is closed when a place may be free.
func (s *sends) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed
}

// sending is a notification under way.
type sending struct {
	notification
	place place
	done  chan struct{}

	mu     sync.Mutex
	ended  bool
	err    error
	stored bool // in the outbox, which is to be told
}

// start sends a notification that has a place.
func (p *Push) start(n notification, at place) *sending {
	s := &sending{notification: n, place: at, done: make(chan struct{})}
	go func() {
		began := p.Now()
		err := p.deliver(p.life, n)
		p.judge(at, began, err)
		s.mu.Lock()
		s.ended, s.err = true, err
		stored := s.stored
		close(s.done)
		s.mu.Unlock()
		if stored && err == nil {
			p.forgetSent(at.key)
		}
		p.sends.end(at)
	}()
	return s
}

// judge notes how a send went that began at a time.
func (p *Push) judge(at place, began time.Time, err error) {
	if now := p.Now(); err != nil || now.Sub(began) > promptly {
		p.sends.doubt(at, now)
		return
	}
	p.sends.trust(at)
}

// outcome tells how a send ended. One that has not will see to its row of the outbox itself.
func (s *sending) outcome() (ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = !s.ended
	return s.ended, s.err
}

const thisRow = ` WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 AND event_id = $4`

// forgetSent takes a row from the outbox that may be on its way there yet. If that fails the notification is sent again.
func (p *Push) forgetSent(k sendKey) {
	for range 5 {
		n, err := p.Process.DB.Exec(p.life, "DELETE FROM push_outbox"+thisRow, k.user, k.app, k.pushkey, k.event)
		if err != nil || n > 0 {
			return
		}
		select {
		case <-p.life.Done():
			return
		case <-time.After(firstPause):
		}
	}
}

// settle stores the outcome of what was sent from the outbox.
func (p *Push) settle(k sendKey, tries int64, err error) {
	if err == nil {
		_, err = p.Process.DB.Exec(p.life, "DELETE FROM push_outbox"+thisRow, k.user, k.app, k.pushkey, k.event)
	} else {
		pause := min(firstPause<<min(tries, 20), longestWait)
		_, err = p.Process.DB.Exec(p.life, "UPDATE push_outbox SET next_ms = $5, tries = tries + 1"+thisRow, k.user, k.app, k.pushkey, k.event, p.Now().Add(pause).UnixMilli())
	}
	if err != nil && p.life.Err() == nil && !db.IsUnavailable(err) {
		p.Process.Log.Warn("the outcome of a notification was not stored, it is sent again", "user", k.user, "error", err)
	}
}

// end is a background part: at its end the sends under way end too.
func (p *Push) end(ctx context.Context) error {
	<-ctx.Done()
	p.sends.mu.Lock()
	p.sends.closed = true
	p.sends.mu.Unlock()
	p.stop()
	p.sends.running.Wait()
	return nil
}
