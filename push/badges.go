package push

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"lyceum/matrix/event"
)

const (
	badgeDelay = time.Second // how long receipts are collected before the devices of their users are told that all is read
	maxBadges  = 10_000      // users who wait for that at most
)

// badges are the users who may have read everything that they were notified of. Their devices show a number of unread events, which only a
// notification removes.
type badges struct {
	mu    sync.Mutex
	users map[string]bool
	wake  chan struct{}
}

func (b *badges) init() { b.users, b.wake = map[string]bool{}, make(chan struct{}, 1) }

// add notes a user who read something.
func (b *badges) add(userID string) {
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

// take returns the users noted so far, sorted, and removes them.
func (b *badges) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Sorted(maps.Keys(b.users))
	clear(b.users)
	return list
}

// roomRead notes that a user has read all events of a room that notify, if this is the process that sends the room's notifications.
func (p *Push) roomRead(userID, roomID string) {
	if p.sends && p.Process.Streams.Consumes(notifications.Name, p.events.Shard(roomID)) {
		p.badges.add(userID)
	}
}

// sendBadges is a background part: it tells the devices of users who have read everything.
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
	d := &delivery{notification: notification{pusher: to}, slot: slotOf(key, to.url()), done: make(chan struct{})}
	body, err := json.Marshal(map[string]notice{"notification": {Devices: []noticeDevice{deviceOf(to, nil)}}})
	if err != nil {
		return
	}
	if _, err := p.slots.acquire(d, p.Now()); err != nil {
		return
	}
	go func() {
		defer p.slots.release(&d.slot)
		if err := p.post(p.sendContext, d, body); err != nil && p.sendContext.Err() == nil {
			p.Process.Log.Debug("a device was not told that all is read", "user", to.UserID, "app", to.AppID, "error", err)
		}
	}()
}

// badge returns the number of unread notifications of a user in all rooms, with invites.
func (p *Push) badge(ctx context.Context, userID string) (int, error) {
	list, err := p.Rooms.Memberships(ctx, userID)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, m := range list {
		switch m.Membership {
		case event.MembershipInvite:
			total++
		case event.MembershipJoin:
			c, err := p.Unread(ctx, userID, m.RoomID)
			if err != nil {
				return 0, err
			}
			total += c.Notify
			for _, t := range c.Threads {
				total += t.Notify
			}
		}
	}
	return total, nil
}
