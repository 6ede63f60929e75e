package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// Claim asks for one key of a device.
type Claim struct {
	UserID    string `json:"user_id"`
	DeviceID  string `json:"device_id"`
	Algorithm string `json:"algorithm"`
}

// ClaimedKey is the answer to a Claim.
type ClaimedKey struct {
	Claim
	KeyID string `json:"key_id"` // without the algorithm
	Body  string `json:"body"`   // JSON
}

// claimRequest is a Claim that is sent to the owner of the user's shard.
type claimRequest struct {
	Claim
	// ID is the id of the request that the claim is part of. A repetition of the request has the same. Processes of the previous
	// version send none.
	ID string `json:"id,omitempty"`
}

// ClaimKeys gives out one key for each claim: the oldest one-time key, or else the fallback key. The result has no entry for users
// of other servers and for devices without a key. Repeated claims with the same id, which clients can not choose, get the same
// keys.
func (x *Devices) ClaimKeys(ctx context.Context, id string, claims []Claim) ([]ClaimedKey, error) {
	parts := map[int][]claimRequest{}
	for _, c := range claims {
		if x.accounts.Local(c.UserID) && validName(c.DeviceID) && validName(c.Algorithm) {
			shard := x.toDevice.Shard(c.UserID)
			parts[shard] = append(parts[shard], claimRequest{c, id})
		}
	}
	var mu sync.Mutex
	var out []ClaimedKey
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		g.Go(func() error {
			got, err := x.claim(ctx, part[0].UserID, part)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, got...)
			return err
		})
	}
	return out, g.Wait()
}

// claimsAtOnce is how many claims are appended at once. Other writes take their turn in between.
const claimsAtOnce = 100

// claimAtOwner runs on the owner of the shard that all claims belong to. Among many claims it first filters out devices without a
// key, for which nothing has to be written.
func (x *Devices) claimAtOwner(ctx context.Context, _ string, claims []claimRequest) (out []ClaimedKey, err error) {
	few := len(claims) <= claimsAtOnce
	for part := range slices.Chunk(claims, claimsAtOnce) {
		if !few {
			if part, err = x.claimable(ctx, part); err != nil {
				return nil, err
			}
		}
		work := make([]*claimOperation, len(part))
		entries := make([]*stream.Entry, len(part))
		for i, c := range part {
			work[i] = &claimOperation{claimRequest: c, at: x.nowMs()}
			entries[i] = x.entry(c.UserID, c.DeviceID, work[i])
		}
		if err := x.deps.Process.Streams.Append(ctx, entries...); err != nil {
			return nil, err
		}
		for _, w := range work {
			if w.got != nil {
				out = append(out, *w.got)
			}
		}
	}
	return out, nil
}

// claimable returns the claims whose devices have a key, or that got one before.
func (x *Devices) claimable(ctx context.Context, claims []claimRequest) ([]claimRequest, error) {
	users, devices, ids := columnsOf(claims)
	have := map[Claim]bool{}
	err := db.Each(func(row db.Row) error {
		var c Claim
		err := row.Scan(&c.UserID, &c.DeviceID, &c.Algorithm)
		have[c] = true
		return err
	})(x.db.Query(ctx, `SELECT DISTINCT user_id, device_id, algorithm FROM one_time_keys WHERE user_id = ANY($1) AND device_id = ANY($2)
		UNION SELECT user_id, device_id, algorithm FROM fallback_keys WHERE user_id = ANY($1) AND device_id = ANY($2)
		UNION SELECT user_id, device_id, algorithm FROM claimed_keys WHERE user_id = ANY($1) AND device_id = ANY($2)
			AND claim_id = ANY($3)`, users, devices, ids))
	if err != nil {
		return nil, err
	}
	var out []claimRequest
	for _, c := range claims {
		if have[c.Claim] {
			out = append(out, c)
		}
	}
	return out, nil
}

// claimOperation takes one key in the transaction of the stream.
type claimOperation struct {
	claimRequest
	at    int64      // ms
	taken *takenKeys // set while it is stored
	got   *ClaimedKey
}

func (w *claimOperation) device() string { return w.DeviceID }

func (w *claimOperation) apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error) {
	w.got = nil
	if k, again := w.taken.known[w.claimRequest]; again { // the change of the key counts was published the first time
		w.got = &k
		return false, nil
	}
	k := ClaimedKey{Claim: w.Claim}
	for _, query := range []string{
		`DELETE FROM one_time_keys WHERE ` + accounts.DeviceExists + ` AND user_id = $1 AND device_id = $2 AND algorithm = $3
		AND key_id = (SELECT key_id FROM one_time_keys
			WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 ORDER BY created_ms, key_id LIMIT 1) RETURNING key_id, body`,
		`UPDATE fallback_keys SET used = TRUE WHERE ` + accounts.DeviceExists + ` AND user_id = $1 AND device_id = $2
		AND algorithm = $3 RETURNING key_id, body`,
	} {
		err := tx.QueryRow(ctx, query, userID, w.DeviceID, w.Algorithm).Scan(&k.KeyID, &k.Body)
		if err == nil {
			w.got = &k
			w.taken.add(w.claimRequest, k, w.at)
			return true, nil
		}
		if !errors.Is(err, db.ErrNoRows) {
			return false, fmt.Errorf("claim a key: %w", err)
		}
	}
	return false, nil
}

// claimLife is how long the result of a claim is stored: longer than any request is repeated.
const claimLife = 10 * time.Minute

// takenKeys are the keys that the claims of a batch got, also when they were stored before: the outcome of a write may be unknown,
// so that the claims are repeated, perhaps at another owner.
type takenKeys struct {
	known map[claimRequest]ClaimedKey
	rows  [][]any // rows of claimed_keys
}

var takenRows = &db.Table{
	Name:    "claimed_keys",
	Columns: db.Columns("user_id text, device_id text, claim_id text, algorithm text, key_id text, body text, created_ms integer"),
}

// loadTaken reads what the claims of a batch got before.
func loadTaken(ctx context.Context, tx *db.Tx, batch []*stream.Entry) (*takenKeys, error) {
	var asked []claimRequest
	for _, e := range batch {
		if w, ok := e.Value.(*claimOperation); ok && w.ID != "" {
			asked = append(asked, w.claimRequest)
		}
	}
	t := &takenKeys{known: map[claimRequest]ClaimedKey{}}
	if len(asked) == 0 {
		return t, nil
	}
	users, devices, ids := columnsOf(asked)
	err := db.Each(func(row db.Row) error {
		var c claimRequest
		var k ClaimedKey
		err := row.Scan(&c.UserID, &c.DeviceID, &c.ID, &c.Algorithm, &k.KeyID, &k.Body)
		k.Claim = c.Claim
		t.known[c] = k
		return err
	})(tx.Query(ctx, `SELECT user_id, device_id, claim_id, algorithm, key_id, body FROM claimed_keys WHERE user_id = ANY($1)
		AND device_id = ANY($2) AND claim_id = ANY($3)`,
		users, devices, ids))
	return t, err
}

func (t *takenKeys) add(c claimRequest, k ClaimedKey, at int64) {
	if c.ID == "" {
		return
	}
	t.known[c] = k // a repetition may be in the same batch
	t.rows = append(t.rows, []any{c.UserID, c.DeviceID, c.ID, c.Algorithm, k.KeyID, k.Body, at})
}

// columnsOf returns the users, devices and ids of claims as columns for a statement.
func columnsOf(claims []claimRequest) (users, devices, ids []string) {
	for _, c := range claims {
		users, devices, ids = append(users, c.UserID), append(devices, c.DeviceID), append(ids, c.ID)
	}
	return users, devices, ids
}
