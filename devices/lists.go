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

// listChange is what the owner of the user's shard of "device_lists" does in one transaction. Each change
// makes a row of the stream; one that only says so leaves all members empty.
type listChange struct {
	DeviceID   string         `json:"device_id,omitempty"`
	Keys       string         `json:"keys,omitempty"`        // the keys of DeviceID, canonical JSON
	Removed    []string       `json:"removed,omitempty"`     // devices that are gone
	Signing    []signingKey   `json:"signing,omitempty"`     // new cross-signing keys
	SeenMaster *string        `json:"seen_master,omitempty"` // refuse Signing when the master key is another than this and than the new one
	Signatures []keySignature `json:"signatures,omitempty"`  // new signatures on the user's keys
	UserGone   bool           `json:"gone,omitempty"`        // the user is gone: drop all
	Viewer     string         `json:"viewer,omitempty"`      // who alone can see the change; "" for all
	Lease      *lease.Lease   `json:"under,omitempty"`       // change nothing when it was taken over
	Token      int64          `json:"token,omitempty"`       // change nothing when the access token of this id is gone; 0 is none
	Proof      accounts.Proof `json:"proof,omitempty"`       // change nothing when it does not hold any more
}

type listResult struct {
	Conflict  bool `json:"conflict,omitempty"` // the master key is not SeenMaster any more
	LeaseLost bool `json:"lost,omitempty"`     // Under was taken over
	Refused   bool `json:"refused,omitempty"`  // Token is gone
	Unproved  bool `json:"unproved,omitempty"` // Proof does not hold any more
}

// pendingChange is the Value of a row on its way into the database.
type pendingChange struct {
	listChange
	result listResult
}

// changeHere runs on the owner of the user's shard.
func (x *Devices) changeHere(ctx context.Context, userID string, c listChange) (listResult, error) {
	p := &pendingChange{listChange: c}
	data := []byte("{}") // nil would say that it is to be read
	if c.Viewer != "" {
		data = []byte(c.Viewer)
	}
	err := x.deps.Process.Streams.Append(
		ctx,
		&stream.Entry{Stream: x.lists, Row: stream.Row{Shard: x.lists.Shard(userID), Key: userID, Data: data, Value: p}},
	)
	return p.result, err
}

// ListChange is a row of the stream "device_lists".
type ListChange struct {
	UserID string // whose keys changed
	Viewer string // who alone can see it; "" for all who see the user's keys
}

// DecodeDeviceList reads a row of the stream "device_lists".
func DecodeDeviceList(row stream.Row) ListChange {
	c := ListChange{UserID: row.Key}
	if len(row.Data) > 0 && row.Data[0] == '@' {
		c.Viewer = string(row.Data)
	}
	return c
}

// For tells that a user may see the change, as far as the user sees the keys.
func (c ListChange) For(userID string) bool { return c.Viewer == "" || c.Viewer == userID }

// apply may run again in another transaction, so it sets the result anew.
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
		removed := slices.DeleteFunc(
			slices.Clone(p.Removed),
			func(id string) bool { return slices.Contains(there, id) },
		) // but not those made since
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

// ChangedUsers gives the users whose device lists changed in after < pos <= upto as viewer may see them, sorted; both are positions
// of the 8 shards. A user who changed again after upto may be left out: a later range has them. Ranges
// that this process's memory covers cost no statement, others one for all.
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
