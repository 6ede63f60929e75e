package devices

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// listChange is a request to the owner of the user's shard of "device_lists", which does it in one transaction. Each change adds a
// row to the stream; one without members only adds the row.
type listChange struct {
	DeviceID   string         `json:"device_id,omitempty"`
	Keys       string         `json:"keys,omitempty"`        // the keys of DeviceID, canonical JSON
	Removed    []string       `json:"removed,omitempty"`     // removed devices
	Signing    []signingKey   `json:"signing,omitempty"`     // new cross-signing keys
	SeenMaster *string        `json:"seen_master,omitempty"` // refuse Signing when the stored master key is neither this nor the new one
	Signatures []keySignature `json:"signatures,omitempty"`  // new signatures on the user's keys
	UserGone   bool           `json:"gone,omitempty"`        // the user was deactivated: delete everything
	Viewer     string         `json:"viewer,omitempty"`      // the only user who can see the change; "" for all
	Lease      *lease.Lease   `json:"under,omitempty"`       // change nothing when another process took it over
	Token      int64          `json:"token,omitempty"`       // change nothing when the access token with this id does not exist; 0 is none
	Proof      accounts.Proof `json:"proof,omitempty"`       // change nothing when it is not valid any more
}

// listResult answers a listChange.
type listResult struct {
	Conflict  bool `json:"conflict,omitempty"` // the master key is not SeenMaster any more
	LeaseLost bool `json:"lost,omitempty"`     // Lease was taken over
	Refused   bool `json:"refused,omitempty"`  // Token does not exist
	Unproved  bool `json:"unproved,omitempty"` // Proof is not valid any more
}

// pendingChange is the Value of a row of the stream that is not stored yet.
type pendingChange struct {
	listChange
	result listResult
}

// changeAtOwner does a listChange on the owner of the user's shard.
func (x *Devices) changeAtOwner(ctx context.Context, userID string, c listChange) (listResult, error) {
	p := &pendingChange{listChange: c}
	data := []byte("{}") // nil would mean that subscribers read it from the database
	if c.Viewer != "" {
		data = []byte(c.Viewer)
	}
	err := x.deps.Process.Streams.Append(
		ctx,
		&stream.Entry{Stream: x.lists, Row: stream.Row{Shard: x.lists.Shard(userID), Key: userID, Data: data, Value: p}},
	)
	return p.result, err
}

// ListChange is a decoded row of the stream "device_lists".
type ListChange struct {
	UserID string // whose keys changed
	Viewer string // the only user who can see it; "" for everybody who sees the user's keys
}

// DecodeDeviceList decodes a row of the stream "device_lists".
func DecodeDeviceList(row stream.Row) ListChange {
	c := ListChange{UserID: row.Key}
	if len(row.Data) > 0 && row.Data[0] == '@' {
		c.Viewer = string(row.Data)
	}
	return c
}

// For reports whether a user who sees the keys may see the change.
func (c ListChange) For(userID string) bool { return c.Viewer == "" || c.Viewer == userID }

// apply does the change. It may run again in another transaction, so it sets the result anew.
func (p *pendingChange) apply(ctx context.Context, tx *db.Tx, userID string) error {
	p.result = listResult{}
	var err error
	if p.result.LeaseLost, err = leaseLost(ctx, tx, p.Lease); err != nil || p.result.LeaseLost {
		return err
	}
	refused, err := refuseWithoutToken(ctx, tx, p.Token)
	if p.result.Refused = refused != nil; err != nil || refused != nil {
		return err
	}
	there, err := p.Proof.Holds(ctx, tx, userID)
	if p.result.Unproved = !there; err != nil || !there {
		return err
	}
	if p.UserGone {
		return dropUser(ctx, tx, userID)
	}
	if p.Keys != "" {
		if err := storeDeviceKeys(ctx, tx, userID, p.DeviceID, p.Keys); err != nil {
			return err
		}
	}
	if len(p.Removed) > 0 {
		there, err := accounts.DeviceIDs(ctx, tx, userID)
		if err != nil {
			return err
		}
		removed := slices.DeleteFunc(slices.Clone(p.Removed), func(id string) bool {
			return slices.Contains(there, id) // created again since
		})
		for _, query := range []string{
			`DELETE FROM device_keys WHERE user_id = $1 AND device_id = ANY($2)`,
			`DELETE FROM key_signatures WHERE user_id = $1 AND target = ANY($2)`,
		} {
			if _, err := tx.Exec(ctx, query, userID, removed); err != nil {
				return err
			}
		}
	}
	if len(p.Signing) > 0 {
		conflict, err := storeSigningKeys(ctx, tx, userID, p.Signing, p.SeenMaster)
		if p.result.Conflict = conflict; err != nil || conflict {
			return err
		}
	}
	return storeSignatures(ctx, tx, userID, p.Signatures)
}

// ChangedUsers returns the users whose device lists changed at after < pos <= upto, as the viewer may see them, sorted. Both have
// a position for each shard of the stream. A user who changed again after upto may be missing: a later range has that change. It
// makes no database statement for ranges in memory, and one for all others together.
func (x *Devices) ChangedUsers(ctx context.Context, viewer string, after, upto []int64) ([]string, error) {
	shards := x.lists.Shards()
	if len(after) != shards || len(upto) != shards {
		return nil, fmt.Errorf("changed users: expected %d positions, found %d and %d", shards, len(after), len(upto))
	}
	seen := map[string]struct{}{}
	var where []string
	args := []any{viewer}
	for shard := range shards {
		if after[shard] >= upto[shard] || x.recentChanges.find(viewer, shard, after[shard], upto[shard], seen) {
			continue
		}
		n := len(args)
		where = append(where, fmt.Sprintf("(shard = $%d AND pos > $%d AND pos <= $%d)", n+1, n+2, n+3))
		args = append(args, shard, after[shard], upto[shard])
	}
	if len(where) > 0 {
		ranges := strings.Join(where, " OR ")
		older, err := db.Texts(x.db.Query(ctx, `SELECT user_id FROM device_lists WHERE `+ranges+
			` UNION SELECT user_id FROM device_list_private WHERE viewer = $1 AND (`+ranges+`)`, args...))
		if err != nil {
			return nil, err
		}
		for _, userID := range older {
			seen[userID] = struct{}{}
		}
	}
	out := make([]string, 0, len(seen))
	for userID := range seen {
		out = append(out, userID)
	}
	slices.Sort(out)
	return out, nil
}
