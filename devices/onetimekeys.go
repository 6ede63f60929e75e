package devices

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
)

const (
	maxOneTime = 1000    // unclaimed keys of a device in all algorithms; clients keep 50 to 100
	maxKinds   = 20      // algorithms of its one-time keys, and of its fallback keys
	maxKey     = 4 << 10 // bytes of a key with its signatures
	maxHashes  = 2000    // hashes of the newest one-time keys of a device; more than maxOneTime, so that all unclaimed keys are among them
)

// publicKey is a one-time or fallback key.
type publicKey struct {
	Algorithm string `json:"algorithm"`
	ID        string `json:"id"`
	Body      string `json:"body"` // canonical JSON
}

// hash identifies the key and its content.
func (k publicKey) hash() string {
	sum := sha256.Sum256([]byte(k.Algorithm + ":" + k.ID + "\x00" + k.Body))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// keyUpload has new keys of a device.
type keyUpload struct {
	DeviceID string      `json:"device_id"`
	OneTime  []publicKey `json:"one_time,omitempty"`
	Fallback []publicKey `json:"fallback,omitempty"`
	Token    int64       `json:"token,omitempty"` // refuse when the access token with this id does not exist; 0 is none
	full     bool        // set by check: more than maxHashes hashes would be stored
}

// parsePublicKeys parses {"algorithm:id": key}, where a key is a string or an object with the string "key". Errors: M_BAD_JSON,
// M_INVALID_PARAM, M_TOO_LARGE.
func parsePublicKeys(keys object) ([]publicKey, error) {
	if len(keys) > maxOneTime {
		return nil, matrix.TooLarge(fmt.Sprintf("Expected at most %d keys, found %d", maxOneTime, len(keys)))
	}
	out := make([]publicKey, 0, len(keys))
	for name, raw := range keys {
		algorithm, id, ok := strings.Cut(name, ":")
		if !ok || !validName(algorithm) || !validName(id) {
			return nil, matrix.InvalidParam("The name of a key must be its algorithm, a colon and its id, at most 255 bytes each")
		}
		body, err := matrix.CanonicalJSONLenient(raw)
		if err != nil {
			return nil, matrix.BadJSON("The key " + name + " can not be read").With(err)
		}
		if _, isString := matrix.Unquote(body); !isString {
			if key, ok := matrix.LookupString(body, "key"); !ok || key == "" {
				return nil, matrix.BadJSON("The key " + name + " must be a string or an object with the string key")
			}
		} else if strings.HasPrefix(algorithm, "signed_") {
			return nil, matrix.BadJSON("The key " + name + " must be an object with key and signatures")
		}
		if len(body) > maxKey {
			return nil, matrix.TooLarge(fmt.Sprintf("The key %s has %d bytes: expected at most %d", name, len(body), maxKey))
		}
		out = append(out, publicKey{algorithm, id, string(body)})
	}
	return out, nil
}

// uploadOperation stores keys in the transaction of the stream.
type uploadOperation struct {
	keyUpload
	at      int64
	refused error
}

func (w *uploadOperation) device() string { return w.DeviceID }

func (w *uploadOperation) apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error) {
	if w.refused, err = refuseWithoutToken(ctx, tx, w.Token); err != nil || w.refused != nil {
		return false, err
	}
	var fresh []publicKey
	fresh, w.refused, err = w.check(ctx, tx, userID)
	if err != nil || w.refused != nil {
		return false, err
	}
	if err := w.store(ctx, tx, userID, fresh); err != nil {
		return false, err
	}
	for _, k := range w.Fallback {
		// A key that is uploaded again, by a repeated request, stays used.
		_, err := tx.Exec(ctx, `INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, body, used) VALUES ($1, $2, $3, $4, $5, FALSE)
			ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, body = excluded.body,
			used = (fallback_keys.used AND fallback_keys.key_id = excluded.key_id AND fallback_keys.body = excluded.body)`,
			userID, w.DeviceID, k.Algorithm, k.ID, k.Body)
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// store adds one-time keys and remembers their hashes.
func (w *uploadOperation) store(ctx context.Context, tx *db.Tx, userID string, fresh []publicKey) error {
	if len(fresh) == 0 {
		return nil
	}
	rows, hashes := make([][]any, len(fresh)), make([][]any, len(fresh))
	for i, k := range fresh {
		rows[i] = []any{userID, w.DeviceID, k.Algorithm, k.ID, k.Body, w.at}
		hashes[i] = []any{userID, w.DeviceID, k.hash(), w.at}
	}
	if err := tx.Bulk(ctx, `INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, body, created_ms) VALUES ?`, rows); err != nil {
		return err
	}
	if err := tx.Bulk(ctx, `INSERT INTO one_time_key_hashes (user_id, device_id, hash, created_ms) VALUES ?`, hashes); err != nil || !w.full {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2 AND created_ms < (SELECT created_ms
		FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2 ORDER BY created_ms DESC
			LIMIT 1 OFFSET $3)`, userID, w.DeviceID, maxHashes-1)
	return err
}

// check returns the one-time keys that were never uploaded, or why the upload is refused: a stored key has the same id and other
// content, or the device would have too many keys. A key that was given out is not added again: a client repeats an upload whose
// answer it lost.
func (u *keyUpload) check(ctx context.Context, q db.Querier, userID string) (fresh []publicKey, refused, err error) {
	type name struct{ algorithm, id string }
	stored, uploaded := map[name]string{}, map[string]bool{}
	if len(u.OneTime) > 0 {
		ids, hashes := make([]string, len(u.OneTime)), make([]string, len(u.OneTime))
		for i, k := range u.OneTime {
			ids[i], hashes[i] = k.ID, k.hash()
		}
		err = db.Each(func(row db.Row) error {
			var n name
			var body, hash string
			err := row.Scan(&n.algorithm, &n.id, &body, &hash)
			if hash != "" {
				uploaded[hash] = true
			} else {
				stored[n] = body
			}
			return err
		})(q.Query(ctx, `SELECT algorithm, key_id, body, '' FROM one_time_keys WHERE user_id = $1 AND device_id = $2 AND key_id = ANY($3)
			UNION ALL SELECT '', '', '', hash FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2
				AND hash = ANY($4)`, userID, u.DeviceID, ids, hashes))
		if err != nil {
			return nil, nil, err
		}
	}
	for _, k := range u.OneTime {
		switch old, known := stored[name{k.Algorithm, k.ID}]; {
		case known && old == k.Body, uploaded[k.hash()]:
		case known:
			return nil, matrix.NewError(
				400,
				matrix.CodeUnknown,
				"The one-time key "+k.Algorithm+":"+k.ID+" exists with other content: upload keys under new ids",
			), nil
		default:
			fresh = append(fresh, k)
		}
	}
	refused, err = u.checkNumbers(ctx, q, userID, fresh)
	return fresh, refused, err
}

// checkNumbers refuses more keys than a device may have. Keys that are stored already, in a repeated request, are not refused.
func (u *keyUpload) checkNumbers(ctx context.Context, q db.Querier, userID string, fresh []publicKey) (refused, err error) {
	oneTime, fallback := map[string]bool{}, map[string]bool{} // algorithms
	total := len(fresh)
	err = db.Each(func(row db.Row) error {
		var algorithm string
		var n int
		err := row.Scan(&algorithm, &n)
		switch {
		case algorithm == "":
			u.full = n+len(fresh) > maxHashes
		case n < 0:
			fallback[algorithm] = true
		default:
			oneTime[algorithm] = true
			total += n
		}
		return err
	})(q.Query(ctx, `SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm
		UNION ALL SELECT algorithm, -1 FROM fallback_keys WHERE user_id = $1 AND device_id = $2
		UNION ALL SELECT '', COUNT(*) FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2`, userID, u.DeviceID))
	if err != nil {
		return nil, err
	}
	for _, k := range fresh {
		oneTime[k.Algorithm] = true
	}
	had := len(fallback)
	for _, k := range u.Fallback {
		fallback[k.Algorithm] = true
	}
	switch {
	case len(fresh) > 0 && total > maxOneTime:
		return matrix.TooLarge(
			fmt.Sprintf(
				"A device may have %d one-time keys that were not given out: expected fewer new ones, found %d keys with them",
				maxOneTime,
				total,
			),
		), nil
	case len(fresh) > 0 && len(oneTime) > maxKinds:
		return matrix.TooLarge(fmt.Sprintf("A device may have one-time keys of %d algorithms, found %d", maxKinds, len(oneTime))), nil
	case len(fallback) > had && len(fallback) > maxKinds:
		return matrix.TooLarge(fmt.Sprintf("A device may have fallback keys of %d algorithms, found %d", maxKinds, len(fallback))), nil
	}
	return nil, nil
}

// uploadAtOwner does an upload on the owner of the user's shard of "to_device" and returns the new counts.
func (x *Devices) uploadAtOwner(ctx context.Context, userID string, u keyUpload) (counts KeyCounts, err error) {
	w := &uploadOperation{keyUpload: u, at: x.nowMs()}
	if err := x.deps.Process.Streams.Append(ctx, x.entry(userID, u.DeviceID, w)); err != nil {
		return counts, err
	}
	if w.refused != nil {
		return counts, w.refused
	}
	counts.OneTime, counts.Fallback, err = x.OneTimeKeyCounts(ctx, userID, u.DeviceID)
	return counts, err
}
