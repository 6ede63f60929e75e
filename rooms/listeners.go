package rooms

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/lease"
	"lyceum/platform/role"
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
	return forEachParallel(rooms, func(m Membership) error {
		if m.Membership != event.MembershipJoin {
			return nil
		}
		return r.renewProfile(ctx, userID, m.RoomID)
	})
}

// renewProfile gives a room the profile of a member as it is now.
func (r *Rooms) renewProfile(ctx context.Context, userID, roomID string) error {
	_, err := r.setMembership(ctx, roomID, membershipRequest{
		Sender: userID, Target: userID, Membership: event.MembershipJoin, Always: true, IfMembership: []string{event.MembershipJoin},
	})
	if matrix.HasCode(err, matrix.CodeForbidden) { // the user left meanwhile, or is deactivated
		return nil
	}
	return err
}

// renewProfiles renews what was made of a profile while that changed: the work that spreads the new one may have missed it. One
// process of the fleet runs it.
func (r *Rooms) renewProfiles(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(r.FinishInterval)
	defer tick.Stop()
	for {
		err := r.renewOld(ctx, job.Exec)
		switch {
		case errors.Is(err, lease.ErrLost):
			return err
		case err != nil && ctx.Err() == nil:
			r.Process.Log.Warn("some rooms do not have a new name yet, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// renewAtOnce is how many memberships of old profiles are read at once.
const renewAtOnce = 1000

// renewOld renews memberships of old profiles and lets their notes go, by exec. It comes to each once: those that fail keep no
// others waiting. The error is that of the first ones that failed.
func (r *Rooms) renewOld(ctx context.Context, exec func(ctx context.Context, query string, args ...any) error) error {
	var failed error
	for after := (accounts.ProfileCopy{}); ; {
		list, err := r.Accounts.OldProfiles(ctx, after, renewAtOnce)
		if err != nil {
			return err
		}
		err = forEachParallel(list, func(of accounts.ProfileCopy) error {
			if err := r.renewProfile(ctx, of.UserID, of.Place); err != nil {
				return err
			}
			return r.Accounts.ProfileRenewed(ctx, of, exec)
		})
		if errors.Is(err, lease.ErrLost) || ctx.Err() != nil {
			return err
		}
		failed = cmp.Or(failed, err)
		if len(list) < renewAtOnce {
			return failed
		}
		after = list[len(list)-1]
	}
}

// forEachParallel runs fn on a few memberships at a time, on all of them, and joins the errors.
func forEachParallel[M any](list []M, fn func(m M) error) error {
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
	return forEachParallel(rooms, func(m Membership) error {
		switch m.Membership {
		case event.MembershipJoin, event.MembershipInvite, event.MembershipKnock:
		default:
			return nil
		}
		_, err := r.setMembership(ctx, m.RoomID, membershipRequest{Sender: userID, Target: userID, Membership: event.MembershipLeave})
		if matrix.HasCode(err, matrix.CodeForbidden) {
			return nil
		}
		return err
	})
}
