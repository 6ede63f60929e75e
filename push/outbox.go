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
	firstPause   = time.Second // before a notification is sent again; then it doubles up to maxPause
	shortPause   = 200 * time.Millisecond
	resendAtOnce = 100 // rows of the outbox that are read at once
)

// outboxRow is a row of the outbox that is due.
type outboxRow struct {
	sendKey
	storedAt, tries int64
}

// retryOutbox is the Periodic function of the consumer. It starts to send the rows of a shard's outbox that are due, and does not wait for
// them. It returns when it wants to be called again.
func (p *Push) retryOutbox(ctx context.Context, shard int) (time.Duration, error) {
	now := p.Now()
	if p.slots.isClosed() || !p.sender.isDue(shard, now) {
		return firstPause, nil
	}
	due, err := db.List(func(x db.Row) (r outboxRow, err error) {
		err = x.Scan(&r.user, &r.app, &r.pushkey, &r.event, &r.storedAt, &r.tries)
		return r, err
	})(p.Process.DB.Query(ctx, `SELECT user_id, app_id, pushkey, event_id, made_ms, tries FROM push_outbox
		WHERE shard = $1 AND next_ms <= $2 ORDER BY next_ms, made_ms LIMIT $3`, shard, now.UnixMilli(), resendAtOnce))
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
	case len(due) == resendAtOnce:
		return 0, nil
	}
	return firstPause, p.readNextDue(ctx, shard)
}

// isDue reports whether the outbox of a shard has rows that may be due. The clock may have been put back since the time was noted.
func (w *senderState) isDue(shard int, now time.Time) bool {
	next := w.outboxDue[shard].Load()
	return next <= now.UnixMilli() || next > now.Add(outboxCheckEvery).UnixMilli()
}

// onAssigned is the OnAssigned of the consumer: the process that had the shard before may have written to its outbox.
func (w *senderState) onAssigned(shard int) { w.outboxDue[shard].Store(0) }

// resend starts to send rows of the outbox for which there are slots, and delays the others; soon means that some of them only wait for a
// free slot.
func (p *Push) resend(ctx context.Context, shard int, due []outboxRow) (soon bool, err error) {
	pushers, err := p.pushersOf(ctx, due)
	if err != nil {
		return false, err
	}
	var begun []*delivery
	old := 0
	err = p.Process.DB.Write(ctx, func(w *db.Batch) error {
		p.releaseAll(begun) // of an earlier try of the transaction
		begun, soon, old = nil, false, 0
		now := p.Now()
		for _, r := range due {
			to := pushers[sendKey{r.user, r.app, r.pushkey, ""}]
			tooLate := now.Sub(time.UnixMilli(r.storedAt)) > p.config.GiveUpAfter.D()
			if to == nil || tooLate {
				if tooLate {
					old++
				}
				w.Do("DELETE FROM push_outbox"+whereRow, r.user, r.app, r.pushkey, r.event)
				continue
			}
			d := &delivery{
				notification: notification{pusher: to}, slot: slotOf(r.sendKey, to.url()), shard: shard,
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

// acquireForRow takes a slot for a row of the outbox, if there is one. It returns after which pause the row is due again.
func (p *Push) acquireForRow(d *delivery, now time.Time) (pause time.Duration, taken bool) {
	switch _, err := p.slots.acquire(d, now); {
	case err == nil:
		return inFlightFor, true
	case errors.Is(err, errInFlight):
		return inFlightFor, false
	case errors.Is(err, errBackingOff), d.slot.trust >= suspectGateway, d.slot.trust == untried:
		return p.slots.delay(&d.slot, now), false
	}
	return shortPause, false
}

func (p *Push) releaseAll(list []*delivery) {
	for _, d := range list {
		p.slots.release(&d.slot)
	}
}

// pushersOf reads the pushers of rows. The keys of the result have no event.
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

// readNextDue reads when the next row of a shard's outbox is due.
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

// complete reads the event of a notification of the outbox and evaluates the rules again; news is false when it is not needed any more.
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

// isNews reports whether a user still needs to be notified of an event: not when the user has left the room or has read it.
func (p *Push) isNews(ctx context.Context, userID string, e *rooms.Event) (bool, error) {
	m, err := p.Rooms.Membership(ctx, userID, e.RoomID)
	if err != nil || m.Membership != event.MembershipJoin {
		return m.EventID == e.ID, err // true for the event that invites the user
	}
	read, err := p.hasRead(ctx, userID, e)
	return !read, err
}
