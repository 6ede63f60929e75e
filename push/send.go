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
	prepareWithin = 5 * time.Second                            // how long a send may take before the gateway is asked
	storeWithin   = 5 * time.Second                            // how long a statement may take that stores how a send ended
	inFlightFor   = prepareWithin + sendWithin + 5*time.Second // after which a send is tried again of which no end is known
	endWithin     = 3 * time.Second                            // how long sends in flight may take when the process ends
	storeTries    = 60                                         // how often storing how a send ended is tried, once a second
	rowTries      = 5                                          // how often it is tried while the row is not there
	stepWithin    = 5 * time.Second                            // how long the sends of a step may take while some succeed promptly
)

// delivery is a notification that is sent: sendSlots.acquire takes its slot, then start sends it.
type delivery struct {
	notification
	slot       slot
	shard      int  // of the row in the outbox
	fromOutbox bool // it was read from the outbox, which has its row until it is sent
	tries      int64
	sent       *atomic.Int64 // counts the sends of its step that succeeded; may be nil
	done       chan struct{}

	mu     sync.Mutex
	ended  bool
	err    error
	stored bool // it will be in the outbox, so start stores how the send ended
}

// deliveryOf makes the delivery of a notification that was not sent before.
func deliveryOf(n notification, shard int) *delivery {
	return &delivery{notification: n, slot: slotOf(n.key(), n.pusher.url()), shard: shard, done: make(chan struct{})}
}

// start sends a notification that has a slot, in the background.
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
			p.storeSendResult(d, err)
		}
		p.slots.release(&d.slot)
	}()
}

// result returns how a send ended. A send that has not ended yet will update its row of the outbox itself.
func (d *delivery) result() (ended bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored = !d.ended
	return d.ended, d.err
}

// deliver sends a notification once. It returns nil also when the notification is not needed any more.
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

// prepare makes the body of the request to the gateway; nil when the notification is not needed any more.
func (p *Push) prepare(ctx context.Context, d *delivery) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareWithin)
	defer cancel()
	n := d.notification
	if d.fromOutbox {
		news, err := p.complete(ctx, d.slot.key.event, &n)
		if err != nil || !news {
			return nil, err
		}
	}
	return p.body(ctx, n)
}

// post sends the request to the gateway, and records how it went. From the moment when it is slow, the pusher is suspect.
func (p *Push) post(ctx context.Context, d *delivery, body []byte) error {
	slow := time.AfterFunc(slowAfter, func() { p.slots.markSlow(&d.slot, p.Now()) })
	rejected, err := p.gateway.send(ctx, d.pusher.url(), body)
	if inTime := slow.Stop(); ctx.Err() == nil { // else the send was cancelled as the process ends
		p.recordOutcome(d, err, inTime)
	}
	if err != nil {
		return err
	}
	return p.reject(ctx, d.pusher, rejected)
}

// errReplaced says that the gateway rejected a pusher that was replaced since.
var errReplaced = errors.New("the push gateway rejected a pusher that was changed meanwhile")

// reject removes the pusher if the gateway rejected it. A pusher that was replaced since was not rejected: it stays, and reject returns
// errReplaced, so that the outbox sends the notification to the new pusher, or finds that there is none.
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

// storeSendResult stores how a send ended in its row of the outbox. The row may not be written yet, so it tries more than once. When no
// try succeeds, the notification is sent again.
func (p *Push) storeSendResult(d *delivery, outcome error) {
	for try := range storeTries {
		n, err := p.tryStoreResult(d, outcome)
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

// tryStoreResult deletes or updates the row of a send. It returns how many rows there were. It works also while the process ends.
func (p *Push) tryStoreResult(d *delivery, outcome error) (rows int64, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.sendContext), storeWithin)
	defer cancel()
	k := d.slot.key
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

// endSends is a background part. When the process ends, it lets the sends in flight go on for endWithin, so that what a gateway takes is
// not sent again, and then cancels them.
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

// sendStep is what became of the notifications of a batch, or of a part of it.
type sendStep struct {
	queues   []*gatewayQueue
	inFlight []*delivery
	deferred []outboxEntry
	sent     atomic.Int64 // how many sends succeeded
}

// gatewayQueue has the notifications for a gateway that have no slot yet.
type gatewayQueue struct{ list []*delivery }

// outboxEntry is a notification that is written to the outbox.
type outboxEntry struct {
	*delivery
	pause time.Duration // until it is tried again
	tries int
}

// toOutbox makes the entry of a notification that was not sent: it is due at once, or when its gateway or pusher stops backing off.
func (p *Push) toOutbox(d *delivery) outboxEntry {
	if now := p.Now(); p.slots.isBackingOff(&d.slot, now) {
		return outboxEntry{d, p.slots.delay(&d.slot, now), 0}
	}
	return outboxEntry{d, 0, 0}
}

// enqueue puts deliveries into the queues of their gateways.
func (s *sendStep) enqueue(list []*delivery) {
	by := map[string]*gatewayQueue{}
	for _, d := range list {
		d.sent = &s.sent
		w := by[d.slot.gateway]
		if w == nil {
			w = &gatewayQueue{}
			by[d.slot.gateway] = w
			s.queues = append(s.queues, w)
		}
		w.list = append(w.list, d)
	}
}

// sendWait says how long a step waits for its sends: until none succeeded for the time slowAfter, and at most for stepWithin.
type sendWait struct {
	sent    *atomic.Int64
	seen    int64 // the count of sent when the timer was started
	timer   *time.Timer
	end     time.Time
	expired bool
}

// timerFired starts the timer again if sends succeeded since it was started.
func (w *sendWait) timerFired() {
	n := w.sent.Load()
	if w.expired = n == w.seen || obs.Now().After(w.end); !w.expired {
		w.seen = n
		w.timer.Reset(slowAfter)
	}
}

// wait waits for an event, until the wait has expired or ctx ends.
func (w *sendWait) wait(ctx context.Context, event <-chan struct{}) {
	select { // the timer is checked first, also when the event is there already
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

// send sends a list of notifications and returns those that belong into the outbox. It starts as many sends as there are slots, starts more
// when slots become free, and waits for gateways as long as sends succeed (sendWait). seen is the count of changes of pushers when they
// were read. When ctx ends it stops waiting, and still returns the entries for the outbox, as nobody else knows the sends in flight.
func (p *Push) send(ctx context.Context, list []*delivery, seen int64) []outboxEntry {
	s := &sendStep{}
	s.enqueue(list)
	w := &sendWait{sent: &s.sent, timer: time.NewTimer(slowAfter), end: obs.Now().Add(stepWithin), expired: ctx.Err() != nil}
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
	for _, queue := range s.queues { // when they are sent from the outbox, their pushers are read again
		for _, d := range queue.list {
			s.deferred = append(s.deferred, p.toOutbox(d))
		}
	}
	w.end = time.Time{} // sends in flight may take until the timer fires
	for _, d := range s.inFlight {
		w.wait(ctx, d.done)
	}
	for _, d := range s.inFlight {
		switch ended, err := d.result(); {
		case !ended && d.fromOutbox: // it has a row in the outbox
		case !ended:
			s.deferred = append(s.deferred, outboxEntry{d, inFlightFor, 0})
		case err != nil:
			pause, tries := p.pauseAfterFailure(d, err)
			s.deferred = append(s.deferred, outboxEntry{d, pause, tries})
		}
	}
	return s.deferred
}

// startQueued starts the sends of all queues for which there are slots now.
func (p *Push) startQueued(s *sendStep) {
	now := p.Now()
	left := s.queues[:0]
	for _, queue := range s.queues {
		if p.startQueue(s, queue, now); len(queue.list) > 0 {
			left = append(left, queue)
		}
	}
	s.queues = left
}

// startQueue starts the sends of one queue for which there are slots now. It stops when the gateway has no slot, and skips users who have
// none.
func (p *Push) startQueue(s *sendStep, queue *gatewayQueue, now time.Time) {
	var behind []*delivery // whose users have no slot
	full := map[string]bool{}
	for i, d := range queue.list {
		if full[d.slot.user] {
			behind = append(behind, d)
			continue
		}
		switch other, err := p.slots.acquire(d, now); {
		case err == nil:
			p.start(d)
			s.inFlight = append(s.inFlight, d)
		case errors.Is(err, errNoSlot) && d.slot.exhausted == d.slot.gateway:
			queue.list = queue.list[i:]
			if len(behind) > 0 {
				queue.list = slices.Concat(behind, queue.list)
			}
			return
		case errors.Is(err, errNoSlot):
			full[d.slot.exhausted] = true
			behind = append(behind, d)
		case errors.Is(err, errInFlight): // the batch was begun before and is done again
			s.inFlight = append(s.inFlight, other)
		default:
			s.deferred = append(s.deferred, p.toOutbox(d))
		}
	}
	queue.list = behind
}
