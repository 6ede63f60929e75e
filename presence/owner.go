package presence

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/owned"
	"lyceum/platform/stream"
)

// ownedUser is a user in the owner's memory.
type ownedUser struct {
	devices    deviceList
	status     *Status // of the last row
	lastActive int64   // ms
}

// formerOwner stands for the devices that a former owner knew of: they have some time to be seen again.
const formerOwner = "\x00"

// load reads a user, who may have been online at a former owner.
func (p *Presence) load(ctx context.Context, userID string) (*ownedUser, error) {
	who := &ownedUser{status: &Status{UserID: userID, Presence: Offline}}
	list, err := query(ctx, p.Process.DB, `user_id = $1`, userID)
	if err != nil || len(list) == 0 {
		return who, err
	}
	who.status, who.lastActive = list[0], list[0].LastActive
	if who.status.Presence != Offline {
		who.devices.put(device{formerOwner, who.status.Presence, p.Now()})
	}
	return who, nil
}

// onlineUsers are the users of a shard who were not offline at a former owner.
func (p *Presence) onlineUsers(ctx context.Context, shard int) ([]string, error) {
	return db.Texts(p.Process.DB.Query(ctx, `SELECT user_id FROM presence WHERE shard = $1 AND presence <> 'offline'`, shard))
}

func (who *ownedUser) bytes() int64 {
	n := int64(300 + len(who.status.StatusMsg))
	for _, d := range who.devices {
		n += int64(len(d.id)) + 80
	}
	return n
}

// isTracked reports whether the user has devices, or is not offline according to the last row.
func (who *ownedUser) isTracked() bool { return len(who.devices) > 0 || who.status.Presence != Offline }

// reportAtOwner runs on the owner of the user's shard.
func (p *Presence) reportAtOwner(ctx context.Context, userID string, r ownerReport) (struct{}, error) {
	return struct{}{}, p.owned.Do(ctx, userID, func(c *owned.Change[ownedUser]) error {
		before, now := c.State(), p.Now()
		who := &ownedUser{slices.Clone(before.devices), before.status, before.lastActive}
		woken := r.Active
		for _, d := range r.Devices {
			i := who.devices.index(d.ID)
			if d.State == Offline {
				who.devices.drop(func(it device) bool { return it.id == d.ID })
				continue
			}
			// A device that comes, or that its user comes back to, is activity.
			if d.State == Online {
				woken = woken || i >= 0 && who.devices[i].state != Online || i < 0 && who.devices.index(formerOwner) < 0
			}
			who.devices.put(device{d.ID, d.State, now.Add(-time.Duration(max(0, d.Age)) * time.Millisecond)})
		}
		if woken {
			who.lastActive = now.UnixMilli()
		}
		who.lastActive = max(who.lastActive, min(r.ActiveAt, now.UnixMilli()))
		msg := who.status.StatusMsg
		if r.Message != nil {
			msg = *r.Message
		}
		return p.appendState(c, who, msg)
	})
}

// isExpired tells that a device was not seen for too long.
func (p *Presence) isExpired(d device, now time.Time) bool {
	return d.at.Before(now.Add(-p.config.OfflineAfter.D()))
}

// stateOf derives the presence of a user from the devices.
func (p *Presence) stateOf(who *ownedUser, now time.Time) string {
	state := Offline
	for _, d := range who.devices {
		switch {
		case p.isExpired(d, now):
		case d.state == Online:
			state = Online
		case state == Offline:
			state = Unavailable
		}
	}
	if state == Online && now.UnixMilli()-who.lastActive > p.config.IdleAfter.D().Milliseconds() {
		state = Unavailable
	}
	return state
}

// appendState finds what a user's state is now, remembers who, and appends a row when the state is another.
func (p *Presence) appendState(c *owned.Change[ownedUser], who *ownedUser, msg string) error {
	now := p.Now()
	who.devices.drop(func(d device) bool { return p.isExpired(d, now) })
	next := &Status{UserID: who.status.UserID, Presence: p.stateOf(who, now), StatusMsg: msg, LastActive: who.lastActive}
	next.CurrentlyActive = next.Presence == Online
	remember := func(s *ownedUser, _ *stream.Ticket) { *s = *who }
	if next.Presence == who.status.Presence && next.StatusMsg == who.status.StatusMsg {
		c.Append(remember)
		return nil
	}
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	who.status = next
	c.Append(remember, &stream.Entry{Stream: p.stream, Row: stream.Row{Key: next.UserID, Data: data, Value: next}})
	return nil
}

// watchRounds is in how many seconds all shards are looked at once.
const watchRounds = 4

// watch appends rows for users who became idle or left.
func (p *Presence) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n%10 == 0 {
			p.dropExpired()
		}
		for i := n % watchRounds; i < Shards; i += watchRounds {
			if err := p.watchShard(ctx, i); err != nil && ctx.Err() == nil && !errors.Is(err, stream.ErrNotOwner) {
				p.Process.Log.Warn("who left could not be told, trying again", "shard", i, "error", err)
			}
		}
	}
}

func (p *Presence) watchShard(ctx context.Context, i int) error {
	return p.owned.Each(ctx, i, func(_ string, c *owned.Change[ownedUser]) error {
		before, now := c.State(), p.Now()
		over := false
		for _, d := range before.devices {
			over = over || p.isExpired(d, now)
		}
		if !over && p.stateOf(before, now) == before.status.Presence {
			return nil
		}
		return p.appendState(c, &ownedUser{slices.Clone(before.devices), before.status, before.lastActive}, before.status.StatusMsg)
	})
}

// withLatestActivity is the status with the last activity that this process knows of.
func (p *Presence) withLatestActivity(ctx context.Context, st *Status) *Status {
	p.owned.Peek(ctx, st.UserID, func(who *ownedUser) {
		if who.lastActive > st.LastActive {
			newer := *st
			newer.LastActive = who.lastActive
			st = &newer
		}
	})
	return st
}
