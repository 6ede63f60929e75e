package rooms

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// refreshAtOnce is how many rooms of a user get a new profile at the same time.
const refreshAtOnce = 8

// ProfileChanged implements accounts.ProfileListener: the rooms of the user get the new name and avatar. It may be called
// again.
func (r *Rooms) ProfileChanged(ctx context.Context, userID, field string) error {
	if field != "displayname" && field != "avatar_url" {
		return nil
	}
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
