package push

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/obs"
)

const (
	prepareWithin = 5 * time.Second                            // what a send may take before the gateway is asked
	settleWithin  = 5 * time.Second                            // a statement that stores how a send ended
	underWay      = prepareWithin + sendWithin + 5*time.Second // when a send of which nothing is known is tried again
	endWithin     = 3 * time.Second                            // what sends under way get when the process ends
	settleTries   = 60                                         // how often it is tried to store how a send ended, once a second
	rowTries      = 5                                          // of them for a row that is not there
	stepWithin    = 5 * time.Second                            // what the sends of a step may take while gateways take them promptly
)

// delivery is a notification that is sent: a place is taken for it, then begin sends it.
type delivery struct {
	notification
	place place
	shard int  // of the outbox
	again bool // it comes from the outbox, where its row is until it is sent
	tries int64
	sent  *atomic.Int64 // counts those of its step that a gateway took; nil: none
	done  chan struct{}

	mu     sync.Mutex
	ended  bool
	err    error
	stored bool // in the outbox, which is to be told
}

// deliveryOf is a notification that was not sent before.
func deliveryOf(n notification, shard int) *delivery {
	return &delivery{notification: n, place: placeOf(n.key(), n.pusher.url()), shard: shard, done: make(chan struct{})}
}

// begin sends in the background what has a place.
func (p *Push) begin(d *delivery) {
	go func() {
		err := p.deliver(p.life, d)
		d.mu.Lock()
		d.ended, d.err = true, err
		stored := d.stored || d.again
		if err == nil && d.sent != nil {
			d.sent.Add(1)
		}
		close(d.done)
		d.mu.Unlock()
		if stored {
			p.settle(d, err)
		}
		p.places.giveBack(&d.place)
	}()
}

// outcome tells how a send ended. One that has not will see to its row of the outbox itself.
func (d *delivery) outcome() (ended bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored = !d.ended
	return d.ended, d.err
}

// deliver sends a notification once; nil also when nobody wants it any more.
func (p *Push) deliver(ctx context.Context, d *delivery) error {
	body, err := p.prepare(ctx, d)
	if err == nil && body != nil {
		err = p.post(ctx, d, body)
	}
	if err != nil && ctx.Err() == nil {
		p.Process.Log.Debug("a notification was not sent, it is tried again", "user", d.pusher.UserID, "app", d.pusher.AppID, "error", err)
	}
	return err
}

// prepare makes the body for a gateway; none for what is no news any more.
func (p *Push) prepare(ctx context.Context, d *delivery) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareWithin)
	defer cancel()
	n := d.notification
	if d.again {
		news, err := p.renew(ctx, d.place.key.event, &n)
		if err != nil || !news {
			return nil, err
		}
	}
	return p.body(ctx, n)
}

// post asks the gateway. Only this says something of the gateway: it is in doubt from when it is slow.
func (p *Push) post(ctx context.Context, d *delivery, body []byte) error {
	slow := time.AfterFunc(promptly, func() { p.places.slow(&d.place, p.Now()) })
	rejected, err := p.gateway.send(ctx, d.pusher.url(), body)
	if inTime := slow.Stop(); ctx.Err() == nil { // else the process ends
		p.judge(d, err, inTime)
	}
	if err != nil {
		return err
	}
	return p.reject(ctx, d.pusher, rejected)
}

// errSetAnew says that a rejection is of a pusher which is no longer there as it was sent to.
var errSetAnew = errors.New("the push gateway rejected a pusher that was changed meanwhile")

// reject removes a pusher that is among those which the gateway rejects. One that was set anew meanwhile was not rejected: it stays, and
// the outbox sends to it what the one before did not get (errSetAnew), or finds that there is none.
func (p *Push) reject(ctx context.Context, to *pusher, rejected []string) error {
	if !slices.Contains(rejected, to.Pushkey) {
		return nil
	}
	removed, err := p.deleteRejected(ctx, to)
	if err != nil {
		return err
	}
	p.tellPushers(ctx)
	if !removed {
		return errSetAnew
	}
	return nil
}

const thisRow = thisPusher + ` AND event_id = $4`

// settle stores the outcome of a send in its row of the outbox, which may be on its way there yet. If that fails it is sent again.
func (p *Push) settle(d *delivery, outcome error) {
	for try := range settleTries {
		n, err := p.storeOutcome(d, outcome)
		switch {
		case err == nil && (n > 0 || d.again || try+1 >= rowTries):
			return
		case err != nil && p.life.Err() == nil && !db.IsUnavailable(err):
			p.Process.Log.Warn("the outcome of a notification was not stored yet, it may be sent again", "user", d.pusher.UserID, "error", err)
		}
		select {
		case <-p.life.Done():
			return
		case <-time.After(firstPause):
		}
	}
}

// storeOutcome gives how many rows there were. What was sent is noted also at the end of the process.
func (p *Push) storeOutcome(d *delivery, outcome error) (rows int64, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.life), settleWithin)
	defer cancel()
	k := d.place.key
	if outcome == nil {
		return p.Process.DB.Exec(ctx, "DELETE FROM push_outbox"+thisRow, k.user, k.app, k.pushkey, k.event)
	}
	pause, tries := p.pauseAfter(d, outcome)
	next := p.Now().Add(pause).UnixMilli()
	rows, err = p.Process.DB.Exec(
		ctx, "UPDATE push_outbox SET next_ms = $5, tries = tries + $6"+thisRow, k.user, k.app, k.pushkey, k.event, next, tries,
	)
	p.workers.lookAt(d.shard, next)
	return rows, err
}

// endSends is a background part: at its end sends under way get a moment, so that what a gateway takes is not sent again, and then
// end too.
func (p *Push) endSends(ctx context.Context) error {
	<-ctx.Done()
	p.places.close()
	ended := make(chan struct{})
	go func() {
		p.places.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endWithin):
	}
	p.stop()
	<-ended
	return nil
}

// step is what becomes of the notifications of a batch, or of a part of it.
type step struct {
	left  []*waiting
	under []*delivery // being sent
	kept  []keptBack
	sent  atomic.Int64 // how many of them gateways took
}

// waiting are the notifications for a gateway that have no place yet.
type waiting struct{ list []*delivery }

// keptBack is a notification for the outbox.
type keptBack struct {
	*delivery
	pause time.Duration // until it is tried
	tries int
}

// keepBack is for what was not sent: it is due at once, or when its gateway or pusher is no longer left alone.
func (p *Push) keepBack(d *delivery) keptBack {
	if now := p.Now(); p.places.isAlone(&d.place, now) {
		return keptBack{d, p.places.putOff(&d.place, now), 0}
	}
	return keptBack{d, 0, 0}
}

// waitFor makes a list what is left of the step.
func (s *step) waitFor(list []*delivery) {
	by := map[string]*waiting{}
	for _, d := range list {
		d.sent = &s.sent
		w := by[d.place.gateway]
		if w == nil {
			w = &waiting{}
			by[d.place.gateway] = w
			s.left = append(s.left, w)
		}
		w.list = append(w.list, d)
	}
}

// patience is how long a step waits for its sends: until none ended well for a moment, and not longer than stepWithin.
type patience struct {
	sent   *atomic.Int64
	seen   int64 // of sent, when the moment began
	moment *time.Timer
	end    time.Time
	over   bool
}

// expired is called at the end of the moment.
func (w *patience) expired() {
	n := w.sent.Load()
	if w.over = n == w.seen || obs.Now().After(w.end); !w.over {
		w.seen = n
		w.moment.Reset(promptly)
	}
}

// wait waits for an event unless the patience is over, or ctx.
func (w *patience) wait(ctx context.Context, event <-chan struct{}) {
	select { // first, also when the event is there already
	case <-w.moment.C:
		w.expired()
	default:
	}
	for !w.over {
		select {
		case <-event:
			return
		case <-w.moment.C:
			w.expired()
		case <-ctx.Done():
			w.over = true
		}
	}
}

// send sends what there are places for, waits for the gateways as long as they take some, and gives the rest. seen is how often
// pushers were changed when they were read. When ctx ends it waits no longer, and still gives the rest: what was begun is known
// only here.
func (p *Push) send(ctx context.Context, list []*delivery, seen int64) []keptBack {
	s := &step{}
	s.waitFor(list)
	w := &patience{sent: &s.sent, moment: time.NewTimer(promptly), end: obs.Now().Add(stepWithin), over: ctx.Err() != nil}
	defer w.moment.Stop()
	looked := p.Now()
	for freed := p.places.next(); ; freed = p.places.next() {
		p.beginLeft(s)
		if len(s.left) == 0 || w.over {
			break
		}
		if w.wait(ctx, freed); w.over || p.pushersMoved(ctx, seen, &looked) {
			break
		}
	}
	for _, at := range s.left { // the outbox looks whether the pusher is still there
		for _, d := range at.list {
			s.kept = append(s.kept, p.keepBack(d))
		}
	}
	w.end = time.Time{} // those that are under way get the rest of the moment
	for _, d := range s.under {
		w.wait(ctx, d.done)
	}
	for _, d := range s.under {
		switch ended, err := d.outcome(); {
		case !ended && d.again: // its row is there
		case !ended:
			s.kept = append(s.kept, keptBack{d, underWay, 0})
		case err != nil:
			pause, tries := p.pauseAfter(d, err)
			s.kept = append(s.kept, keptBack{d, pause, tries})
		}
	}
	return s.kept
}

// beginLeft begins what has a place now.
func (p *Push) beginLeft(s *step) {
	now := p.Now()
	left := s.left[:0]
	for _, at := range s.left {
		if p.beginAt(s, at, now); len(at.list) > 0 {
			left = append(left, at)
		}
	}
	s.left = left
}

// beginAt begins what has a place of the notifications for a gateway. The gateway, and users, that just had none are not asked again.
func (p *Push) beginAt(s *step, at *waiting, now time.Time) {
	var behind []*delivery // that have to wait for their users
	full := map[string]bool{}
	for i, d := range at.list {
		if full[d.place.user] {
			behind = append(behind, d)
			continue
		}
		switch other, err := p.places.take(d, now); {
		case err == nil:
			p.begin(d)
			s.under = append(s.under, d)
		case errors.Is(err, errNoPlace) && d.place.full == d.place.gateway:
			at.list = at.list[i:]
			if len(behind) > 0 {
				at.list = slices.Concat(behind, at.list)
			}
			return
		case errors.Is(err, errNoPlace):
			full[d.place.full] = true
			behind = append(behind, d)
		case errors.Is(err, errUnderWay): // the batch was begun before
			s.under = append(s.under, other)
		default:
			s.kept = append(s.kept, p.keepBack(d))
		}
	}
	at.list = behind
}
