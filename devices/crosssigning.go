package devices

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// The usages of cross-signing keys.
const (
	usageMaster = "master"
	usageSelf   = "self_signing"
	usageUser   = "user_signing"
)

// signingKey is a cross-signing key (Client-Server API, "Cross-signing").
type signingKey struct {
	Usage  string `json:"usage"`
	Public string `json:"public"` // base64 as in the key's name
	Body   string `json:"body"`   // canonical JSON
}

func (k *signingKey) id() string { return "ed25519:" + k.Public }

// parseSigningKey checks a cross-signing key. Errors: M_BAD_JSON, M_INVALID_PARAM.
func parseSigningKey(raw json.RawMessage, userID, usage string) (*signingKey, error) {
	what := usage + "_key"
	body, err := matrix.CanonicalJSONLenient(raw)
	if err != nil || body[0] != '{' {
		return nil, matrix.BadJSON(what + " must be an object").With(err)
	}
	body = matrix.AppendWithout(nil, body, "unsigned")
	if user, _ := matrix.LookupString(body, "user_id"); user != userID {
		return nil, matrix.InvalidParam(what + ".user_id must be the user who uploads it, " + userID)
	}
	var usages []string
	if json.Unmarshal(matrix.Lookup(body, "usage"), &usages) != nil || !slices.Contains(usages, usage) {
		return nil, matrix.InvalidParam(what + ".usage must contain " + usage)
	}
	keys, ok := rawStrings(matrix.Lookup(body, "keys"))
	if !ok || len(keys) != 1 {
		return nil, matrix.InvalidParam(what + ".keys must hold exactly one key")
	}
	for name, value := range keys {
		public, isEd := strings.CutPrefix(name, "ed25519:")
		key, err := matrix.DecodeBase64(value)
		if !isEd || public != value || err != nil || len(key) != 32 {
			return nil, matrix.InvalidParam(what + ".keys must hold an ed25519 key under its own base64 form")
		}
		return &signingKey{usage, public, string(body)}, nil
	}
	return nil, nil
}

// signingUpload is a validated request to upload cross-signing keys.
type signingUpload struct {
	keys    []signingKey // those that are not stored yet
	seen    string       // public part of the master key that was stored, "" for none
	replace bool         // the caller must authenticate
}

// checkSigningUpload compares the keys with the stored ones and verifies their signatures. Errors: M_MISSING_PARAM,
// M_INVALID_SIGNATURE, M_FORBIDDEN (a key has the id of a device).
func (x *Devices) checkSigningUpload(ctx context.Context, userID string, keys []signingKey) (*signingUpload, error) {
	all, err := loadSigningKeys(ctx, x.db, []string{userID})
	if err != nil {
		return nil, err
	}
	stored := map[string]signingKey{}
	for _, k := range all[userID] {
		stored[k.Usage] = k
	}
	master, hasMaster := stored[usageMaster]
	u := &signingUpload{seen: master.Public}
	for _, k := range keys {
		if old, ok := stored[k.Usage]; ok && sameJSON([]byte(old.Body), []byte(k.Body)) {
			continue
		}
		u.keys = append(u.keys, k)
		if k.Usage == usageMaster {
			master = k
		}
	}
	if master.Public == "" {
		return nil, matrix.MissingParam("There is no master key: upload master_key first or together with the others")
	}
	u.replace = hasMaster && len(u.keys) > 0
	for _, k := range u.keys {
		if k.Usage != usageMaster {
			if err := verify([]byte(k.Body), userID, master.id(), master.Public); err != nil {
				return nil, err
			}
		}
	}
	if len(u.keys) > 0 {
		known, err := x.accounts.Devices(ctx, userID)
		if err != nil {
			return nil, err
		}
		for _, k := range u.keys {
			if hasDevice(known, userID, k.Public) {
				return nil, matrix.Forbidden("A cross-signing key has the id of one of the user's devices: make another")
			}
		}
	}
	return u, nil
}

// storeSigningKeys replaces keys, and deletes the signatures on and by the replaced ones. conflict says that the master key is
// neither seenMaster nor the new one; then nothing is stored.
func storeSigningKeys(ctx context.Context, tx *db.Tx, userID string, keys []signingKey, seenMaster *string) (conflict bool, err error) {
	all, err := loadSigningKeys(ctx, tx, []string{userID})
	if err != nil {
		return false, err
	}
	old := map[string]signingKey{}
	for _, k := range all[userID] {
		old[k.Usage] = k
	}
	if seenMaster != nil {
		now := old[usageMaster].Public
		repeated := slices.ContainsFunc(keys, func(k signingKey) bool { return k.Usage == usageMaster && k.Public == now })
		if now != *seenMaster && !repeated {
			return true, nil
		}
	}
	for _, k := range keys {
		if before, ok := old[k.Usage]; ok && before.Public != k.Public {
			_, err := tx.Exec(
				ctx, `DELETE FROM key_signatures WHERE (user_id = $1 AND target = $2) OR (signer = $1 AND key_id = $3)`, userID, before.Public,
				before.id(),
			)
			if err != nil {
				return false, err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO cross_signing_keys (user_id, usage, public, body) VALUES ($1, $2, $3, $4)
			ON CONFLICT (user_id, usage) DO UPDATE SET public = excluded.public, body = excluded.body`, userID, k.Usage, k.Public, k.Body)
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

func loadSigningKeys(ctx context.Context, q db.Querier, users []string) (map[string][]signingKey, error) {
	out := map[string][]signingKey{}
	return out, db.Each(func(row db.Row) error {
		var userID string
		var k signingKey
		err := row.Scan(&userID, &k.Usage, &k.Public, &k.Body)
		out[userID] = append(out[userID], k)
		return err
	})(q.Query(ctx, `SELECT user_id, usage, public, body FROM cross_signing_keys WHERE user_id = ANY($1)`, users))
}

// keySignature is a signature that was uploaded separately from the key it is on.
type keySignature struct {
	Target    string `json:"target"` // a device id, or the public part of a cross-signing key
	Signer    string `json:"signer"`
	KeyID     string `json:"key_id"` // of the signer, with "ed25519:"
	Signature string `json:"signature"`
	On        string `json:"on,omitempty"` // the signed key as JSON; the signature is not stored if the target was replaced
}

// signedKey identifies the key that a signature is on.
type signedKey struct{ userID, target string }

func storeSignatures(ctx context.Context, tx *db.Tx, userID string, signatures []keySignature) error {
	if len(signatures) == 0 {
		return nil
	}
	stored := map[string]string{}
	err := eachRow(
		ctx,
		tx,
		`SELECT user_id, device_id, body FROM device_keys WHERE user_id = ANY($1) UNION ALL SELECT user_id, public, body
		FROM cross_signing_keys WHERE user_id = ANY($1)`,
		[]string{userID},
		func(_, target, body string) error {
			stored[target] = body
			return nil
		},
	)
	if err != nil {
		return err
	}
	var newest db.Newest[[3]string]
	for _, s := range signatures {
		if s.On != "" && (stored[s.Target] == "" || !sameJSON([]byte(stored[s.Target]), []byte(s.On))) {
			continue
		}
		newest.Put([3]string{s.Target, s.Signer, s.KeyID}, userID, s.Target, s.Signer, s.KeyID, s.Signature)
	}
	return tx.Bulk(ctx, `INSERT INTO key_signatures (user_id, target, signer, key_id, signature) VALUES ?
		ON CONFLICT (user_id, target, signer, key_id) DO UPDATE SET signature = excluded.signature`, newest.Rows())
}

// loadSignatures returns the signatures on the users' keys that the viewer may see.
func loadSignatures(ctx context.Context, q db.Querier, users []string, viewer string) (map[signedKey][]keySignature, error) {
	out := map[signedKey][]keySignature{}
	return out, db.Each(func(row db.Row) error {
		var k signedKey
		var s keySignature
		err := row.Scan(&k.userID, &k.target, &s.Signer, &s.KeyID, &s.Signature)
		s.Target = k.target
		out[k] = append(out[k], s)
		return err
	})(q.Query(ctx, `SELECT user_id, target, signer, key_id, signature FROM key_signatures WHERE user_id = ANY($1) AND (signer = user_id
		OR signer = $2)`, users, viewer))
}

// signatureUpload is the work of POST /keys/signatures/upload.
type signatureUpload struct {
	signer   string
	devices  map[string]string       // own device keys by device id
	keys     map[string][]signingKey // of the users named in the request and the signer
	known    map[signedKey][]keySignature
	accepted map[string][]keySignature // by the user whose key it is on
	failures map[string]map[string]*matrix.Error
}

// UploadSignatures stores signatures of a user, the signer, on keys that the signer may sign: own devices by the self-signing key,
// the own master key by own devices, master keys of others by the user-signing key. failures has the error of each refused target,
// by user and target; the other targets are stored.
func (x *Devices) UploadSignatures(
	ctx context.Context,
	id *web.Identity,
	signed map[string]map[string]json.RawMessage,
) (failures map[string]map[string]*matrix.Error, err error) {
	signer := id.UserID
	u := &signatureUpload{
		signer:   signer,
		devices:  map[string]string{},
		accepted: map[string][]keySignature{},
		failures: map[string]map[string]*matrix.Error{},
	}
	users := []string{signer}
	for userID := range signed {
		if userID != signer && x.accounts.Local(userID) {
			users = append(users, userID)
		}
	}
	if u.keys, err = loadSigningKeys(ctx, x.db, users); err != nil {
		return nil, err
	}
	if u.known, err = loadSignatures(ctx, x.db, users, signer); err != nil {
		return nil, err
	}
	err = eachRow(
		ctx,
		x.db,
		`SELECT user_id, device_id, body FROM device_keys WHERE user_id = ANY($1)`,
		users[:1],
		func(_, deviceID, body string) error {
			u.devices[deviceID] = body
			return nil
		},
	)
	if err != nil {
		return nil, err
	}
	for userID, targets := range signed {
		for target, raw := range targets {
			if err := u.checkTarget(userID, target, raw); err != nil {
				if u.failures[userID] == nil {
					u.failures[userID] = map[string]*matrix.Error{}
				}
				u.failures[userID][target] = matrix.AsError(err)
			}
		}
	}
	for userID, signatures := range u.accepted {
		c := listChange{Signatures: signatures, Token: id.TokenID}
		if userID != signer { // a signature on another user's key is visible to the signer only
			c.Viewer = signer
		}
		if res, err := x.change(ctx, userID, c); err != nil {
			return nil, err
		} else if res.Refused {
			return nil, matrix.UnknownToken(false)
		}
	}
	return u.failures, nil
}

func (u *signatureUpload) find(userID, usage string) (signingKey, bool) {
	i := slices.IndexFunc(u.keys[userID], func(k signingKey) bool { return k.Usage == usage })
	if i < 0 {
		return signingKey{}, false
	}
	return u.keys[userID][i], true
}

// checkTarget verifies the signatures on one target. Each signature by a key that may sign it is verified; a wrong one refuses the
// target.
func (u *signatureUpload) checkTarget(userID, target string, raw json.RawMessage) error {
	body, err := matrix.CanonicalJSONLenient(raw)
	if err != nil || body[0] != '{' {
		return matrix.BadJSON("A signed key must be an object").With(err)
	}
	stored, signers, err := u.signable(userID, target)
	if err != nil {
		return err
	}
	if !sameJSON(body, []byte(stored)) {
		return matrix.InvalidParam("The signed object is not the key that is stored: query it and sign that")
	}
	ids, err := matrix.KeyIDs(body, u.signer)
	if err != nil {
		return matrix.BadJSON("The signatures can not be read").With(err)
	}
	found := false
	for _, id := range ids {
		public, ok := signers[id]
		if !ok {
			continue
		}
		if err := verify(body, u.signer, id, public); err != nil {
			return err
		}
		found = true
		own, _ := rawStrings(objectMember(objectMember(body, "signatures"), u.signer))
		s := keySignature{Target: target, Signer: u.signer, KeyID: id, Signature: own[id]}
		if !slices.Contains(u.known[signedKey{userID, target}], s) {
			s.On = stored
			u.accepted[userID] = append(u.accepted[userID], s)
		}
	}
	if !found {
		return matrix.InvalidSignature("There is no signature by a key that may sign this one")
	}
	return nil
}

// signable returns the stored text of a key, and the public parts of the keys that may sign it, by key id.
func (u *signatureUpload) signable(userID, target string) (stored string, signers map[string]string, err error) {
	master, hasMaster := u.find(userID, usageMaster)
	isMaster := hasMaster && master.Public == target
	switch {
	case userID != u.signer && isMaster:
		key, ok := u.find(u.signer, usageUser)
		if !ok {
			return "", nil, matrix.NotFound("The user-signing key that signs other users is not uploaded")
		}
		return master.Body, map[string]string{key.id(): key.Public}, nil
	case userID != u.signer:
		return "", nil, matrix.NotFound("The user has no such master key")
	case isMaster:
		signers = map[string]string{}
		for deviceID, body := range u.devices {
			keys, _ := rawStrings(matrix.Lookup([]byte(body), "keys"))
			signers["ed25519:"+deviceID] = keys["ed25519:"+deviceID]
		}
		return master.Body, signers, nil
	}
	body, ok := u.devices[target]
	if !ok {
		return "", nil, matrix.NotFound("There is no such device or key")
	}
	key, ok := u.find(u.signer, usageSelf)
	if !ok {
		return "", nil, matrix.NotFound("The self-signing key that signs devices is not uploaded")
	}
	return body, map[string]string{key.id(): key.Public}, nil
}

var errReplaced = errors.New("the master key changed since the request was checked")
