package presence

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"lyceum/platform/stream"
)

// shard holds the users of a shard who are there, in the process that owns it.
type shard struct {
	mu     sync.Mutex
	loaded bool
	users  map[string]*person
}

// person is a user in the owner's memory.
type person struct {
	devices    map[string]device
	status     *Status        // of the last row
	lastActive int64          // ms
	writing    int            // rows that are not decided: until then the database is behind
	last       *stream.Ticket // of the last row
}

// former stands for the devices that a former owner knew of: they have some time to be seen again.
const former = "\x00"

func (s *shard) drop() {
	s.mu.Lock()
	s.loaded, s.users = false, nil
	s.mu.Unlock()
}

// load reads who was there for a former owner; the caller holds mu and this process owns the shard.
func (p *Presence) load(ctx context.Context, i int) error {
	s := &p.shards[i]
	if s.loaded {
		return nil
	}
	list, err := query(ctx, p.Process.DB, `shard = $1 AND presence <> 'offline'`, i)
	if err != nil {
		return err
	}
	s.loaded, s.users = true, map[string]*person{}
	for _, st := range list {
		s.users[st.UserID] = &person{
			devices: map[string]device{former: {st.Presence, p.Now()}}, status: st, lastActive: st.LastActive,
		}
	}
	return nil
}

// reportHere runs on the owner of the user's shard.
func (p *Presence) reportHere(ctx context.Context, userID string, r report) (struct{}, error) {
	i := p.stream.Shard(userID)
	s := &p.shards[i]
	s.mu.Lock()
	who, err := p.person(ctx, i, userID)
	if err != nil {
		s.mu.Unlock()
		return struct{}{}, err
	}
	now := p.Now()
	woken := r.Active
	for _, d := range r.Devices {
		before, known := who.devices[d.ID]
		if d.State == Offline {
			delete(who.devices, d.ID)
			continue
		}
		// A device that comes, or that its user comes back to, is activity.
		_, taken := who.devices[former]
		woken = woken || d.State == Online && (known && before.state != Online || !known && !taken)
		who.devices[d.ID] = device{d.State, now.Add(-time.Duration(max(0, d.Age)) * time.Millisecond)}
	}
	if woken {
		who.lastActive = now.UnixMilli()
	}
	who.lastActive = max(who.lastActive, min(r.ActiveAt, now.UnixMilli()))
	msg := who.status.StatusMsg
	if r.Message != nil {
		msg = *r.Message
	}
	ticket, err := p.settle(s, who, now, msg)
	undecided := who.last
	if who.writing == 0 {
		undecided = nil
	}
	s.mu.Unlock()
	if err != nil {
		return struct{}{}, err
	}
	if ticket == nil {
		if undecided != nil { // a repeated report is not acknowledged before the first is stored
			err = undecided.Wait(ctx)
		}
		return struct{}{}, err
	}
	return struct{}{}, p.wait(ctx, s, who, ticket)
}

// person gives a user of a shard; the caller holds mu.
func (p *Presence) person(ctx context.Context, i int, userID string) (*person, error) {
	if err := p.load(ctx, i); err != nil {
		return nil, err
	}
	if who := p.shards[i].users[userID]; who != nil {
		return who, nil
	}
	who := &person{devices: map[string]device{}, status: &Status{UserID: userID, Presence: Offline}}
	list, err := query(ctx, p.Process.DB, `user_id = $1`, userID)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 {
		who.status, who.lastActive = list[0], list[0].LastActive
	}
	p.shards[i].users[userID] = who
	return who, nil
}

// settle finds what a user's state is now and queues a row when it is another; the caller holds mu, so
// that drop waits and nothing is built on a write that failed.
func (p *Presence) settle(s *shard, who *person, now time.Time, msg string) (*stream.Ticket, error) {
	next := &Status{UserID: who.status.UserID, Presence: Offline, StatusMsg: msg, LastActive: who.lastActive}
	limit := now.Add(-p.config.OfflineAfter.D())
	for id, d := range who.devices {
		switch {
		case d.at.Before(limit):
			delete(who.devices, id)
		case d.state == Online:
			next.Presence = Online
		case next.Presence == Offline:
			next.Presence = Unavailable
		}
	}
	if next.Presence == Online && now.UnixMilli()-who.lastActive > p.config.IdleAfter.D().Milliseconds() {
		next.Presence = Unavailable
	}
	next.CurrentlyActive = next.Presence == Online
	if next.Presence == who.status.Presence && next.StatusMsg == who.status.StatusMsg {
		if next.Presence == Offline && who.writing == 0 {
			delete(s.users, next.UserID)
		}
		return nil, nil
	}
	data, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	who.status = next
	who.writing++
	who.last = p.Process.Streams.Enqueue(&stream.Entry{Stream: p.stream, Row: stream.Row{Key: next.UserID, Data: data, Value: next}})
	return who.last, nil
}

// wait waits for a user's row. What was not taken is read anew.
func (p *Presence) wait(ctx context.Context, s *shard, who *person, ticket *stream.Ticket) error {
	err := ticket.Wait(ctx)
	if ctx.Err() == nil {
		s.mu.Lock()
		who.writing--
		s.mu.Unlock()
	}
	if errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) || errors.Is(err, stream.ErrBusy) {
		s.drop()
	}
	return err
}

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
			p.forget()
		}
		for i := range p.shards {
			if !p.stream.Owns(i) {
				continue
			}
			if err := p.watchShard(ctx, i); err != nil && ctx.Err() == nil && !errors.Is(err, stream.ErrNotOwner) {
				p.Process.Log.Warn("who left could not be told, trying again", "shard", i, "error", err)
			}
		}
	}
}

func (p *Presence) watchShard(ctx context.Context, i int) error {
	s := &p.shards[i]
	tickets := map[*person]*stream.Ticket{}
	s.mu.Lock()
	err := p.load(ctx, i)
	now := p.Now()
	for _, who := range s.users {
		if err != nil {
			break
		}
		var ticket *stream.Ticket
		if ticket, err = p.settle(s, who, now, who.status.StatusMsg); ticket != nil {
			tickets[who] = ticket
		}
	}
	s.mu.Unlock()
	for who, ticket := range tickets {
		err = errors.Join(err, p.wait(ctx, s, who, ticket))
	}
	return err
}

// fresh is the status with the last activity that this process knows of.
func (p *Presence) fresh(st *Status) *Status {
	s := &p.shards[p.stream.Shard(st.UserID)]
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.users[st.UserID]
	if who == nil || who.lastActive <= st.LastActive {
		return st
	}
	newer := *st
	newer.LastActive = who.lastActive
	return &newer
}
