package rooms

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// refreshAtOnce is how many rooms of a user get a new profile at the same time.
const refreshAtOnce = 8

// renamed are the users whose profile must be carried to their rooms. One user is worked on at a time, so
// that of two changes the later one stays.
type renamed struct {
	mu    sync.Mutex
	users map[string]bool
	wake  chan struct{}
}

func newRenamed() *renamed { return &renamed{users: map[string]bool{}, wake: make(chan struct{}, 1)} }

func (n *renamed) add(userID string) {
	n.mu.Lock()
	n.users[userID] = true
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *renamed) next() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for user := range n.users {
		delete(n.users, user)
		return user
	}
	return ""
}

// ProfileChanged implements accounts.ProfileListener: the rooms of the user get the new name and avatar in
// the background.
func (r *Rooms) ProfileChanged(_ context.Context, userID, field string) error {
	if field == "displayname" || field == "avatar_url" {
		r.renamed.add(userID)
	}
	return nil
}

// carryProfiles is the background part behind ProfileChanged.
func (r *Rooms) carryProfiles(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.renamed.wake:
		}
		for user := r.renamed.next(); user != "" && ctx.Err() == nil; user = r.renamed.next() {
			if err := r.carryProfile(ctx, user); err != nil {
				r.Process.Log.Warn("a changed profile did not reach all rooms", "user", user, "error", err)
			}
		}
	}
}

func (r *Rooms) carryProfile(ctx context.Context, userID string) error {
	rooms, err := r.Memberships(ctx, userID)
	if err != nil {
		return err
	}
	return each(rooms, func(m Membership) error {
		if m.Membership != event.MembershipJoin {
			return nil
		}
		_, err := r.setMembership(ctx, m.RoomID, member{
			Sender: userID, Target: userID, Membership: event.MembershipJoin, Always: true, While: []string{event.MembershipJoin},
		})
		if matrix.HasCode(err, matrix.CodeForbidden) { // the user left meanwhile
			return nil
		}
		return err
	})
}

// each runs fn on a few memberships at a time, on all of them, and joins the errors.
func each(list []Membership, fn func(m Membership) error) error {
	var g errgroup.Group
	g.SetLimit(refreshAtOnce)
	errs := make([]error, len(list))
	for i, m := range list {
		g.Go(func() error {
			errs[i] = fn(m)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// UserDeactivated implements accounts.UserListener: the user leaves all rooms and refuses all invites. It
// may be called again.
func (r *Rooms) UserDeactivated(ctx context.Context, userID string, _ bool) error {
	rooms, err := r.Memberships(ctx, userID)
	if err != nil {
		return err
	}
	return each(rooms, func(m Membership) error {
		switch m.Membership {
		case event.MembershipJoin, event.MembershipInvite, event.MembershipKnock:
		default:
			return nil
		}
		_, err := r.setMembership(ctx, m.RoomID, member{Sender: userID, Target: userID, Membership: event.MembershipLeave})
		if matrix.HasCode(err, matrix.CodeForbidden) {
			return nil
		}
		return err
	})
}
