package push

import (
	"context"
	"errors"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/rooms"
)

const (
	firstPause = time.Second // before a notification is sent again; then it doubles up to longestPause
	shortPause = 200 * time.Millisecond
	maxRetries = 100 // notifications sent again in one round
)

// outboxRow is a row of the outbox that is due.
type outboxRow struct {
	sendKey
	made, tries int64
}

// retry is the Every of the consumer: it begins to send again what is due of the outbox of a shard, and does not wait for it.
func (p *Push) retryOutbox(ctx context.Context, shard int) (time.Duration, error) {
	now := p.Now()
	if p.slots.isClosed() || !p.sender.isDue(shard, now) {
		return firstPause, nil
	}
	due, err := db.List(func(x db.Row) (r outboxRow, err error) {
		err = x.Scan(&r.user, &r.app, &r.pushkey, &r.event, &r.made, &r.tries)
		return r, err
	})(p.Process.DB.Query(ctx, `SELECT user_id, app_id, pushkey, event_id, made_ms, tries FROM push_outbox
		WHERE shard = $1 AND next_ms <= $2 ORDER BY next_ms, made_ms LIMIT $3`, shard, now.UnixMilli(), maxRetries))
	if err != nil {
		return 0, err
	}
	if len(due) == 0 {
		return firstPause, p.readNextDue(ctx, shard)
	}
	soon, err := p.resend(ctx, shard, due)
	switch {
	case err != nil:
		return 0, err
	case soon:
		return shortPause, nil
	case len(due) == maxRetries:
		return 0, nil
	}
	return firstPause, p.readNextDue(ctx, shard)
}

// isDue tells that it is time to look at the outbox of a shard. The clock may have been put back since that was noted.
func (w *senderState) isDue(shard int, now time.Time) bool {
	next := w.outboxDue[shard].Load()
	return next <= now.UnixMilli() || next > now.Add(outboxCheckEvery).UnixMilli()
}

// taken is the OnAssigned of the consumer: the process that had the shard before may have put something into its outbox.
func (w *senderState) onAssigned(shard int) { w.outboxDue[shard].Store(0) }

// sendAgain begins to send rows of the outbox that have a place, and puts the others off: not for long (soon) those that only
// have to wait for their turn.
func (p *Push) resend(ctx context.Context, shard int, due []outboxRow) (soon bool, err error) {
	pushers, err := p.pushersOf(ctx, due)
	if err != nil {
		return false, err
	}
	var begun []*delivery
	old := 0
	err = p.Process.DB.Write(ctx, func(w *db.Batch) error {
		p.releaseAll(begun) // of a try before
		begun, soon, old = nil, false, 0
		now := p.Now()
		for _, r := range due {
			to := pushers[sendKey{r.user, r.app, r.pushkey, ""}]
			tooLate := now.Sub(time.UnixMilli(r.made)) > p.config.GiveUpAfter.D()
			if to == nil || tooLate {
				if tooLate {
					old++
				}
				w.Do("DELETE FROM push_outbox"+whereRow, r.user, r.app, r.pushkey, r.event)
				continue
			}
			d := &delivery{
				notification: notification{pusher: to}, place: slotOf(r.sendKey, to.url()), shard: shard,
				fromOutbox: true, tries: r.tries, done: make(chan struct{}),
			}
			pause, taken := p.acquireForRow(d, now)
			if taken {
				begun = append(begun, d)
			}
			soon = soon || pause == shortPause
			w.Do("UPDATE push_outbox SET next_ms = $5"+whereRow, r.user, r.app, r.pushkey, r.event, now.Add(pause).UnixMilli())
		}
		return nil
	})
	if err != nil {
		p.releaseAll(begun)
		return false, err
	}
	for _, d := range begun {
		p.start(d)
	}
	if old > 0 {
		p.Process.Log.Info(
			"notifications are given up that no gateway took", "shard", shard, "notifications", old, "after", p.config.GiveUpAfter.D(),
		)
	}
	return soon, nil
}

// pauseOf takes a place for a row of the outbox, and gives when the row is due again.
func (p *Push) acquireForRow(d *delivery, now time.Time) (pause time.Duration, taken bool) {
	switch _, err := p.slots.acquire(d, now); {
	case err == nil:
		return inFlightFor, true
	case errors.Is(err, errInFlight):
		return inFlightFor, false
	case errors.Is(err, errBackingOff), d.place.trust >= suspectGateway, d.place.trust == untried:
		return p.slots.delay(&d.place, now), false
	}
	return shortPause, false
}

func (p *Push) releaseAll(list []*delivery) {
	for _, d := range list {
		p.slots.release(&d.place)
	}
}

// pushersOf reads the pushers of rows, by a key without an event.
func (p *Push) pushersOf(ctx context.Context, due []outboxRow) (map[sendKey]*pusher, error) {
	users := make([]string, len(due))
	for i, r := range due {
		users[i] = r.user
	}
	list, err := p.queryPushers(ctx, `user_id = ANY($1)`, users)
	out := make(map[sendKey]*pusher, len(list))
	for _, x := range list {
		out[sendKey{x.UserID, x.AppID, x.Pushkey, ""}] = x
	}
	return out, err
}

// lookAgain notes when the next notification of the outbox is due.
func (p *Push) readNextDue(ctx context.Context, shard int) error {
	next := p.Now().Add(outboxCheckEvery).UnixMilli()
	var due *int64
	seen := p.sender.outboxDue[shard].Load()
	if err := p.Process.DB.QueryRow(ctx, `SELECT MIN(next_ms) FROM push_outbox WHERE shard = $1`, shard).Scan(&due); err != nil {
		return err
	}
	if due != nil {
		next = min(next, *due)
	}
	p.sender.outboxDue[shard].CompareAndSwap(seen, next)
	return nil
}

// renew completes a notification of the outbox: it may be no news any more.
func (p *Push) complete(ctx context.Context, eventID string, n *notification) (news bool, err error) {
	e, err := p.Rooms.Event(ctx, eventID)
	if err != nil || e == nil || e.RedactedBy != "" {
		return false, err
	}
	if news, err := p.isNews(ctx, n.pusher.UserID, e); err != nil || !news {
		return false, err
	}
	res, err := p.evaluate(ctx, n.pusher.UserID, e)
	n.event, n.actions = e, res.Actions
	return res.Notify, err
}

// isNews tells that an event still says something to a user: who left, or has read it, is not told later.
func (p *Push) isNews(ctx context.Context, userID string, e *rooms.Event) (bool, error) {
	m, err := p.Rooms.Membership(ctx, userID, e.RoomID)
	if err != nil || m.Membership != event.MembershipJoin {
		return m.EventID == e.ID, err // an invite
	}
	read, err := p.hasRead(ctx, userID, e)
	return !read, err
}
