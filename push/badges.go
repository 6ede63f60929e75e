package push

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/obs"
)

const (
	badgeDelay = time.Second // how long receipts are collected before the devices of their users are told that all is read
	maxBadges  = 10_000      // users who wait for that at most
)

// badges are the users who may have read everything that they were notified of. Their devices show a number of unread events, which only a
// notification removes. A gateway is asked once: when that fails, the next notification of an event brings the number too.
type badges struct {
	mu    sync.Mutex
	users map[string]badge
	wake  chan struct{}
}

// badge is when the devices of a user are to be told.
type badge struct {
	due      time.Time // the zero time for at once
	failures int       // how often the unread count could not be read
}

func (b *badges) init() { b.users, b.wake = map[string]badge{}, make(chan struct{}, 1) }

// add notes a user who read something.
func (b *badges) add(userID string) {
	b.mu.Lock()
	b.set(userID, badge{})
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// retry notes a user whose unread count could not be read, unless the user has read something since.
func (b *badges) retry(userID string, failed badge, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, noted := b.users[userID]; !noted {
		pause := min(firstPause<<min(failed.failures, maxPauseAfter), maxPause)
		b.set(userID, badge{due: now.Add(pause), failures: failed.failures + 1})
	}
}

// set notes a user, unless there are too many; the caller holds mu.
func (b *badges) set(userID string, v badge) {
	if _, noted := b.users[userID]; noted || len(b.users) < maxBadges {
		b.users[userID] = v
	}
}

// take removes and returns the users that are due.
func (b *badges) take(now time.Time) map[string]badge {
	b.mu.Lock()
	defer b.mu.Unlock()
	due := map[string]badge{}
	for userID, v := range b.users {
		if !v.due.After(now) {
			due[userID] = v
			delete(b.users, userID)
		}
	}
	return due
}

// pause returns how long it is until the next user is due whose count could not be read, at most maxPause.
func (b *badges) pause(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	pause := maxPause
	for _, v := range b.users {
		if v.failures > 0 {
			pause = min(pause, max(0, v.due.Sub(now)))
		}
	}
	return pause
}

// roomRead notes that a user has read all events of a room that notify, if this is the process that sends the room's notifications.
func (p *Push) roomRead(userID, roomID string) {
	if p.sends && p.Process.Streams.Consumes(notifications.Name, p.events.Shard(roomID)) {
		p.badges.add(userID)
	}
}

// sendBadges is a background part: it tells the devices of users who have read everything.
func (p *Push) sendBadges(ctx context.Context) error {
	retry := time.NewTimer(maxPause)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.badges.wake:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(badgeDelay):
			}
		case <-retry.C:
		}
		due := p.badges.take(obs.Now())
		failed, err := p.clearBadges(ctx, slices.Sorted(maps.Keys(due)))
		if err != nil && ctx.Err() == nil {
			p.Process.Log.Debug("devices were not told that all is read", "error", err)
		}
		now := obs.Now()
		for _, userID := range failed {
			p.badges.retry(userID, due[userID], now)
		}
		retry.Reset(p.badges.pause(now))
	}
}

// clearBadges tells the pushers of the users who have nothing unread. It returns the users of whom that could not be read, and why.
func (p *Push) clearBadges(ctx context.Context, users []string) (failed []string, err error) {
	if len(users) == 0 {
		return nil, nil
	}
	pushers, err := p.queryPushers(ctx, `user_id = ANY($1)`, users)
	if err != nil {
		return users, err
	}
	unread := map[string]int{}
	for _, x := range pushers {
		n, known := unread[x.UserID]
		if !known {
			var failure error
			if n, failure = p.badge(ctx, x.UserID); failure != nil {
				n, failed, err = -1, append(failed, x.UserID), failure
			}
			unread[x.UserID] = n
		}
		if n == 0 {
			p.clearBadge(x)
		}
	}
	return failed, err
}

// clearBadge tells one pusher in the background that nothing is unread, unless there is no slot now or the gateway or pusher is suspect.
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
