package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/rooms/state"
)

// pendingUpgrade is an upgrade whose new room is there and which is not finished: a row of room_upgrades, stored with the room.
type pendingUpgrade struct {
	NewRoom   string `json:"new_room"`
	OldRoom   string `json:"old_room"`
	User      string `json:"user"`
	Tombstone string `json:"tombstone"` // the event that the new one replaces, "" for none
}

var upgradeRows = &db.Table{Name: "room_upgrades", Columns: db.Columns("room_id text, old_room text, user_id text, tombstone text")}

const selectUpgrades = `SELECT u.room_id, u.old_room, u.user_id, u.tombstone FROM room_upgrades u `

func scanUpgrade(row db.Row) (p pendingUpgrade, err error) {
	return p, row.Scan(&p.NewRoom, &p.OldRoom, &p.User, &p.Tombstone)
}

// pendingUpgrade finds the unfinished upgrade of a room to a version; where there are more, the same one each time.
func (r *Rooms) pendingUpgrade(ctx context.Context, roomID string, v event.Version) (p pendingUpgrade, found bool, err error) {
	list, err := db.List(scanUpgrade)(r.Process.DB.Query(ctx, selectUpgrades+`JOIN rooms r ON r.room_id = u.room_id
		WHERE u.old_room = $1 AND r.version = $2 ORDER BY u.room_id LIMIT 1`, roomID, v.ID))
	if err != nil || len(list) == 0 {
		return p, false, err
	}
	return list[0], true, nil
}

// txn is the transaction of an event of the upgrade: whoever sends it again gets the event that is there.
func (p pendingUpgrade) txn(typ string) string { return serverTxnPrefix + p.NewRoom + "/" + typ }

// completeUpgrade does what remains of an upgrade and lets its row go, by exec. It may be called again, also at the same time. When
// the new room may not become the replacement it is abandoned, the row goes too, and the error is a refusal: M_BAD_STATE when
// another upgrade was first. After other errors the row stays.
func (r *Rooms) completeUpgrade(
	ctx context.Context, p pendingUpgrade, exec func(ctx context.Context, query string, args ...any) error,
) error {
	err := r.sendTombstone(ctx, p)
	switch {
	case matrix.IsRefusal(err):
		if err := r.abandonRoom(ctx, p); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := errors.Join(r.closeOld(ctx, p), r.carryOver(ctx, p.User, p.OldRoom, p.NewRoom)); err != nil {
			return err
		}
	}
	if err := exec(ctx, "DELETE FROM room_upgrades WHERE room_id = $1", p.NewRoom); err != nil {
		return err
	}
	return err
}

// sendTombstone sends the tombstone of the old room.
func (r *Rooms) sendTombstone(ctx context.Context, p pendingUpgrade) error {
	empty := ""
	tombstone := Send{
		Sender: p.User, Txn: p.txn(event.TypeTombstone), Type: event.TypeTombstone, StateKey: &empty,
		IfReplaces: &p.Tombstone, MoveAliasesTo: p.NewRoom,
		Content: encodeJSON(map[string]string{"body": "This room has been replaced", "replacement_room": p.NewRoom}),
	}
	if _, err := r.findTxn(ctx, p.OldRoom, tombstone); !errors.Is(err, db.ErrNoRows) {
		return err
	}
	m, err := r.Membership(ctx, p.User, p.NewRoom)
	if err != nil {
		return err
	}
	if m.Membership != event.MembershipJoin { // it was abandoned, or the account was deactivated
		return matrix.Forbidden("The user who upgrades the room is no member of the new one")
	}
	_, err = r.Send(ctx, p.OldRoom, tombstone)
	return err
}

// abandonRoom empties a new room that did not become the replacement.
func (r *Rooms) abandonRoom(ctx context.Context, p pendingUpgrade) error {
	if err := r.SetDirectoryVisibility(ctx, p.NewRoom, "private"); err != nil {
		return err
	}
	_, err := r.setMembership(ctx, p.NewRoom, membershipRequest{Sender: p.User, Target: p.User, Membership: event.MembershipLeave})
	if matrix.IsRefusal(err) { // the user is no member
		return nil
	}
	return err
}

// closeOld keeps people from talking on in a room that was replaced, as far as the user may. Refusals by the room's rules are
// logged, not returned.
func (r *Rooms) closeOld(ctx context.Context, p pendingUpgrade) error {
	if err := r.SetDirectoryVisibility(ctx, p.OldRoom, "private"); err != nil {
		return err
	}
	h, _, err := r.Head(ctx, p.OldRoom)
	if err != nil {
		return err
	}
	alias, levels := state.Key{Type: event.TypeCanonicalAlias}, state.Key{Type: event.TypePowerLevels}
	found, err := r.StateEvents(ctx, h.Root, alias, levels)
	if err != nil {
		return err
	}
	power, err := r.PowerAt(ctx, h.Version, h.Root)
	if err != nil {
		return err
	}
	if e := found[alias]; e != nil && strings.Contains(string(e.Content), `"#`) {
		if err := r.sendToOldRoom(ctx, p, alias.Type, json.RawMessage("{}")); err != nil {
			return err
		}
	}
	content := map[string]json.RawMessage{}
	if e := found[levels]; e != nil {
		if err := json.Unmarshal(e.Content, &content); err != nil {
			return err
		}
	}
	restricted := max(50, power.UsersDefault+1)
	if power.EventsDefault < restricted {
		content["events_default"] = encodeJSON(restricted)
	}
	if power.Invite < restricted {
		content["invite"] = encodeJSON(restricted)
	}
	return r.sendToOldRoom(ctx, p, levels.Type, encodeJSON(content))
}

// sendToOldRoom sends a state event to the old room, where it may be sent.
func (r *Rooms) sendToOldRoom(ctx context.Context, p pendingUpgrade, typ string, content json.RawMessage) error {
	empty := ""
	_, err := r.Send(ctx, p.OldRoom, Send{Sender: p.User, Txn: p.txn(typ), Type: typ, StateKey: &empty, Content: content})
	if !matrix.IsRefusal(err) {
		return err
	}
	if !matrix.HasCode(err, matrix.CodeForbidden) {
		r.Process.Log.Warn("a replaced room keeps some of its state", "room", p.OldRoom, "type", typ, "error", err)
	}
	return nil
}

// upgradePause is how long an upgrade that could not be finished waits until it is tried again.
const upgradePause = time.Minute

// finishUpgrades finishes upgrades whose process was lost. One process of the fleet runs it.
func (r *Rooms) finishUpgrades(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(r.FinishInterval)
	defer tick.Stop()
	due := map[string]time.Time{}
	for {
		list, err := db.List(scanUpgrade)(r.Process.DB.Query(ctx, selectUpgrades+"ORDER BY u.room_id"))
		if err != nil {
			return err
		}
		before := due
		due = make(map[string]time.Time, len(list))
		for _, p := range list {
			at, seen := before[p.NewRoom]
			switch now := obs.Now(); {
			case !seen:
				at = now.Add(r.FinishInterval / 2) // at the next tick
			case !now.Before(at):
				if err := r.finishUpgrade(ctx, job, p); err != nil {
					return err
				}
				at = now.Add(upgradePause)
			}
			due[p.NewRoom] = at
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *Rooms) finishUpgrade(ctx context.Context, job *role.Job, p pendingUpgrade) error {
	if err := job.Check(ctx); err != nil {
		return err
	}
	work, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	err := r.completeUpgrade(work, p, job.Exec)
	switch {
	case errors.Is(err, lease.ErrLost):
		return err
	case err != nil && !matrix.IsRefusal(err) && ctx.Err() == nil:
		r.Process.Log.Warn("an upgrade is not complete yet and will be tried again", "room", p.OldRoom, "new", p.NewRoom, "error", err)
	}
	return nil
}
