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
	storeWithin   = 5 * time.Second                            // a statement that stores how a send ended
	inFlightFor   = prepareWithin + sendWithin + 5*time.Second // when a send of which nothing is known is tried again
	endWithin     = 3 * time.Second                            // what sends under way get when the process ends
	storeTries    = 60                                         // how often it is tried to store how a send ended, once a second
	rowTries      = 5                                          // of them for a row that is not there
	stepWithin    = 5 * time.Second                            // what the sends of a step may take while gateways take them promptly
)

// delivery is a notification that is sent: a place is taken for it, then begin sends it.
type delivery struct {
	notification
	place      slot
	shard      int  // of the outbox
	fromOutbox bool // it comes from the outbox, where its row is until it is sent
	tries      int64
	sent       *atomic.Int64 // counts those of its step that a gateway took; nil: none
	done       chan struct{}

	mu     sync.Mutex
	ended  bool
	err    error
	stored bool // in the outbox, which is to be told
}

// deliveryOf is a notification that was not sent before.
func deliveryOf(n notification, shard int) *delivery {
	return &delivery{notification: n, place: slotOf(n.key(), n.pusher.url()), shard: shard, done: make(chan struct{})}
}

// begin sends in the background what has a place.
func (p *Push) start(d *delivery) {
	go func() {
		err := p.deliver(p.sendContext, d)
		d.mu.Lock()
		d.ended, d.err = true, err
		stored := d.stored || d.fromOutbox
		if err == nil && d.sent != nil {
			d.sent.Add(1)
		}
		close(d.done)
		d.mu.Unlock()
		if stored {
			p.storeResult(d, err)
		}
		p.slots.release(&d.place)
	}()
}

// outcome tells how a send ended. One that has not will see to its row of the outbox itself.
func (d *delivery) result() (ended bool, err error) {
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
	if d.fromOutbox {
		news, err := p.complete(ctx, d.place.key.event, &n)
		if err != nil || !news {
			return nil, err
		}
	}
	return p.body(ctx, n)
}

// post asks the gateway. Only this says something of the gateway: it is in doubt from when it is slow.
func (p *Push) post(ctx context.Context, d *delivery, body []byte) error {
	slow := time.AfterFunc(promptly, func() { p.slots.markSlow(&d.place, p.Now()) })
	rejected, err := p.gateway.send(ctx, d.pusher.url(), body)
	if inTime := slow.Stop(); ctx.Err() == nil { // else the process ends
		p.recordOutcome(d, err, inTime)
	}
	if err != nil {
		return err
	}
	return p.reject(ctx, d.pusher, rejected)
}

// errSetAnew says that a rejection is of a pusher which is no longer there as it was sent to.
var errReplaced = errors.New("the push gateway rejected a pusher that was changed meanwhile")

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
	p.announcePushers(ctx)
	if !removed {
		return errReplaced
	}
	return nil
}

const whereRow = wherePusher + ` AND event_id = $4`

// settle stores the outcome of a send in its row of the outbox, which may be on its way there yet. If that fails it is sent again.
func (p *Push) storeResult(d *delivery, outcome error) {
	for try := range storeTries {
		n, err := p.storeOutcome(d, outcome)
		switch {
		case err == nil && (n > 0 || d.fromOutbox || try+1 >= rowTries):
			return
		case err != nil && p.sendContext.Err() == nil && !db.IsUnavailable(err):
			p.Process.Log.Warn("the outcome of a notification was not stored yet, it may be sent again", "user", d.pusher.UserID, "error", err)
		}
		select {
		case <-p.sendContext.Done():
			return
		case <-time.After(firstPause):
		}
	}
}

// storeOutcome gives how many rows there were. What was sent is noted also at the end of the process.
func (p *Push) storeOutcome(d *delivery, outcome error) (rows int64, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.sendContext), storeWithin)
	defer cancel()
	k := d.place.key
	if outcome == nil {
		return p.Process.DB.Exec(ctx, "DELETE FROM push_outbox"+whereRow, k.user, k.app, k.pushkey, k.event)
	}
	pause, tries := p.pauseAfterFailure(d, outcome)
	next := p.Now().Add(pause).UnixMilli()
	rows, err = p.Process.DB.Exec(
		ctx, "UPDATE push_outbox SET next_ms = $5, tries = tries + $6"+whereRow, k.user, k.app, k.pushkey, k.event, next, tries,
	)
	p.sender.setDue(d.shard, next)
	return rows, err
}

// endSends is a background part: at its end sends under way get a moment, so that what a gateway takes is not sent again, and then
// end too.
func (p *Push) endSends(ctx context.Context) error {
	<-ctx.Done()
	p.slots.close()
	ended := make(chan struct{})
	go func() {
		p.slots.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endWithin):
	}
	p.stopSends()
	<-ended
	return nil
}

// step is what becomes of the notifications of a batch, or of a part of it.
type sendStep struct {
	queues   []*gatewayQueue
	inFlight []*delivery // being sent
	deferred []outboxEntry
	sent     atomic.Int64 // how many of them gateways took
}

// waiting are the notifications for a gateway that have no place yet.
type gatewayQueue struct{ list []*delivery }

// keptBack is a notification for the outbox.
type outboxEntry struct {
	*delivery
	pause time.Duration // until it is tried
	tries int
}

// keepBack is for what was not sent: it is due at once, or when its gateway or pusher is no longer left alone.
func (p *Push) toOutbox(d *delivery) outboxEntry {
	if now := p.Now(); p.slots.isBackingOff(&d.place, now) {
		return outboxEntry{d, p.slots.delay(&d.place, now), 0}
	}
	return outboxEntry{d, 0, 0}
}

// waitFor makes a list what is left of the step.
func (s *sendStep) enqueue(list []*delivery) {
	by := map[string]*gatewayQueue{}
	for _, d := range list {
		d.sent = &s.sent
		w := by[d.place.gateway]
		if w == nil {
			w = &gatewayQueue{}
			by[d.place.gateway] = w
			s.queues = append(s.queues, w)
		}
		w.list = append(w.list, d)
	}
}

// patience is how long a step waits for its sends: until none ended well for a moment, and not longer than stepWithin.
type sendWait struct {
	sent    *atomic.Int64
	seen    int64 // of sent, when the moment began
	timer   *time.Timer
	end     time.Time
	expired bool
}

// expired is called at the end of the moment.
func (w *sendWait) timerFired() {
	n := w.sent.Load()
	if w.expired = n == w.seen || obs.Now().After(w.end); !w.expired {
		w.seen = n
		w.timer.Reset(promptly)
	}
}

// wait waits for an event unless the patience is over, or ctx.
func (w *sendWait) wait(ctx context.Context, event <-chan struct{}) {
	select { // first, also when the event is there already
	case <-w.timer.C:
		w.timerFired()
	default:
	}
	for !w.expired {
		select {
		case <-event:
			return
		case <-w.timer.C:
			w.timerFired()
		case <-ctx.Done():
			w.expired = true
		}
	}
}

// send sends what there are places for, waits for the gateways as long as they take some, and gives the rest. seen is how often
// pushers were changed when they were read. When ctx ends it waits no longer, and still gives the rest: what was begun is known
// only here.
func (p *Push) send(ctx context.Context, list []*delivery, seen int64) []outboxEntry {
	s := &sendStep{}
	s.enqueue(list)
	w := &sendWait{sent: &s.sent, timer: time.NewTimer(promptly), end: obs.Now().Add(stepWithin), expired: ctx.Err() != nil}
	defer w.timer.Stop()
	looked := p.Now()
	for freed := p.slots.freedSignal(); ; freed = p.slots.freedSignal() {
		p.startQueued(s)
		if len(s.queues) == 0 || w.expired {
			break
		}
		if w.wait(ctx, freed); w.expired || p.pushersChangedSince(ctx, seen, &looked) {
			break
		}
	}
	for _, at := range s.queues { // the outbox looks whether the pusher is still there
		for _, d := range at.list {
			s.deferred = append(s.deferred, p.toOutbox(d))
		}
	}
	w.end = time.Time{} // those that are under way get the rest of the moment
	for _, d := range s.inFlight {
		w.wait(ctx, d.done)
	}
	for _, d := range s.inFlight {
		switch ended, err := d.result(); {
		case !ended && d.fromOutbox: // its row is there
		case !ended:
			s.deferred = append(s.deferred, outboxEntry{d, inFlightFor, 0})
		case err != nil:
			pause, tries := p.pauseAfterFailure(d, err)
			s.deferred = append(s.deferred, outboxEntry{d, pause, tries})
		}
	}
	return s.deferred
}

// beginLeft begins what has a place now.
func (p *Push) startQueued(s *sendStep) {
	now := p.Now()
	left := s.queues[:0]
	for _, at := range s.queues {
		if p.startQueue(s, at, now); len(at.list) > 0 {
			left = append(left, at)
		}
	}
	s.queues = left
}

// beginAt begins what has a place of the notifications for a gateway. The gateway, and users, that just had none are not asked again.
func (p *Push) startQueue(s *sendStep, at *gatewayQueue, now time.Time) {
	var behind []*delivery // that have to wait for their users
	full := map[string]bool{}
	for i, d := range at.list {
		if full[d.place.user] {
			behind = append(behind, d)
			continue
		}
		switch other, err := p.slots.acquire(d, now); {
		case err == nil:
			p.start(d)
			s.inFlight = append(s.inFlight, d)
		case errors.Is(err, errNoSlot) && d.place.exhausted == d.place.gateway:
			at.list = at.list[i:]
			if len(behind) > 0 {
				at.list = slices.Concat(behind, at.list)
			}
			return
		case errors.Is(err, errNoSlot):
			full[d.place.exhausted] = true
			behind = append(behind, d)
		case errors.Is(err, errInFlight): // the batch was begun before
			s.inFlight = append(s.inFlight, other)
		default:
			s.deferred = append(s.deferred, p.toOutbox(d))
		}
	}
	at.list = behind
}
