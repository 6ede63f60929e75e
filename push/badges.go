package push

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	badgeDelay = time.Second // for how long receipts come together before a user's devices are told that all is read
	maxBadges  = 10_000      // users who wait for that
)

// badges are the users who may have read all that they were notified of. Their devices show a number, which only a notification
// takes away. It is tried once: where it fails, the next notification of an event brings the number too.
type badges struct {
	mu    sync.Mutex
	users map[string]bool
	wake  chan struct{}
}

func (b *badges) init() { b.users, b.wake = map[string]bool{}, make(chan struct{}, 1) }

// read notes a user who read something.
func (b *badges) read(userID string) {
	b.mu.Lock()
	if len(b.users) < maxBadges {
		b.users[userID] = true
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take gives the users noted so far, in order.
func (b *badges) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Sorted(maps.Keys(b.users))
	clear(b.users)
	return list
}

// readAll notes that a user has read what notified in a room, in the one process that sends the room's notifications.
func (p *Push) readAll(userID, roomID string) {
	if p.sends && p.Process.Streams.Consumes(notifications.Name, p.events.Shard(roomID)) {
		p.badges.read(userID)
	}
}

// sendBadges is a background part: it tells the devices of users who have read all.
func (p *Push) sendBadges(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.badges.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(badgeDelay):
		}
		if err := p.clearBadges(ctx, p.badges.take()); err != nil && ctx.Err() == nil {
			p.Process.Log.Debug("devices were not told that all is read", "error", err)
		}
	}
}

// clearBadges sends that nothing is unread to the pushers of the users of whom that is so.
func (p *Push) clearBadges(ctx context.Context, users []string) error {
	pushers, err := p.queryPushers(ctx, `user_id = ANY($1)`, users)
	if err != nil {
		return err
	}
	unread := map[string]int{}
	for _, x := range pushers {
		if _, known := unread[x.UserID]; !known {
			if unread[x.UserID], err = p.badge(ctx, x.UserID); err != nil {
				return err
			}
		}
		if unread[x.UserID] == 0 {
			p.clearBadge(x)
		}
	}
	return nil
}

// clearBadge sends in the background that nothing is unread, unless the gateway has no place now or is in doubt.
func (p *Push) clearBadge(to *pusher) {
	key := sendKey{user: to.UserID, app: to.AppID, pushkey: to.Pushkey}
	d := &delivery{notification: notification{pusher: to}, place: slotOf(key, to.url()), done: make(chan struct{})}
	body, err := json.Marshal(map[string]notice{"notification": {Devices: []noticeDevice{deviceOf(to, nil)}}})
	if err != nil {
		return
	}
	if _, err := p.slots.acquire(d, p.Now()); err != nil {
		return
	}
	go func() {
		defer p.slots.release(&d.place)
		if err := p.post(p.sendContext, d, body); err != nil && p.sendContext.Err() == nil {
			p.Process.Log.Debug("a device was not told that all is read", "user", to.UserID, "app", to.AppID, "error", err)
		}
	}()
}
