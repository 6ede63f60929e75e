package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// parseDeviceKeys validates the identity keys of a device (Client-Server API, "DeviceKeys") and returns their canonical form.
// Signatures are stored unverified: the clients that encrypt to the device verify them, and the specification asks the server for
// no check. Errors: M_BAD_JSON, M_INVALID_PARAM.
func parseDeviceKeys(raw json.RawMessage, userID, deviceID string) (string, error) {
	body, err := matrix.CanonicalJSONLenient(raw)
	if err != nil || body[0] != '{' {
		return "", matrix.BadJSON("device_keys must be an object").With(err)
	}
	if matrix.Lookup(body, "unsigned") != nil { // what the server adds, and no signature covers
		body = matrix.AppendWithout(nil, body, "unsigned")
	}
	user, _ := matrix.LookupString(body, "user_id")
	device, _ := matrix.LookupString(body, "device_id")
	if user != userID || device != deviceID {
		return "", matrix.InvalidParam("device_keys must be those of the user and the device that upload them: expected " +
			userID + " and " + deviceID + ", found " + user + " and " + device)
	}
	var algorithms []string
	if json.Unmarshal(matrix.Lookup(body, "algorithms"), &algorithms) != nil || algorithms == nil {
		return "", matrix.BadJSON("device_keys.algorithms must be a list of strings")
	}
	if _, ok := rawStrings(matrix.Lookup(body, "keys")); !ok {
		return "", matrix.BadJSON("device_keys.keys must be an object of strings")
	}
	if signatures := matrix.Lookup(body, "signatures"); signatures != nil && signatures[0] != '{' {
		return "", matrix.BadJSON("device_keys.signatures must be an object")
	}
	return string(body), nil
}

// verify checks a signature against a public key in base64. Errors: M_INVALID_SIGNATURE.
func verify(body []byte, signer, keyID, public string) error {
	key, err := matrix.DecodeBase64(public)
	if err == nil {
		err = matrix.VerifyJSON(body, signer, keyID, key)
	}
	if err != nil {
		return matrix.InvalidSignature("The signature of " + signer + " by " + keyID + " is missing or wrong").With(err)
	}
	return nil
}

// storedDeviceKeys returns the identity keys of a device, "" for none.
func (x *Devices) storedDeviceKeys(ctx context.Context, userID, deviceID string) (body string, err error) {
	err = x.db.QueryRow(ctx, `SELECT body FROM device_keys WHERE user_id = $1 AND device_id = $2`, userID, deviceID).Scan(&body)
	if errors.Is(err, db.ErrNoRows) {
		err = nil
	}
	return body, err
}

// replacesIdentity reports whether the new device keys have other public keys than the stored ones, whatever else they contain.
func replacesIdentity(old, body string) bool {
	return old != "" && body != "" && !bytes.Equal(matrix.Lookup([]byte(old), "keys"), matrix.Lookup([]byte(body), "keys"))
}

// putDeviceKeys stores the identity keys of a device if they changed.
func (x *Devices) putDeviceKeys(ctx context.Context, id *web.Identity, old, body string) error {
	if old == body {
		return nil
	}
	if replacesIdentity(old, body) {
		// The one-time keys were signed by the identity that ends here.
		if res, err := x.cleanUp(ctx, id.UserID, deviceCleanup{DeviceIDs: []string{id.DeviceID}, Token: id.TokenID}); err != nil {
			return err
		} else if res.Refused {
			return matrix.UnknownToken(false)
		}
	}
	res, err := x.change(ctx, id.UserID, listChange{DeviceID: id.DeviceID, Keys: body, Token: id.TokenID})
	if err == nil && res.Refused {
		err = matrix.UnknownToken(false)
	}
	return err
}

func storeDeviceKeys(ctx context.Context, tx *db.Tx, userID, deviceID, body string) error {
	var old string
	err := tx.QueryRow(ctx, `SELECT body FROM device_keys WHERE user_id = $1 AND device_id = $2`, userID, deviceID).Scan(&old)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	if old != "" && !sameJSON([]byte(old), []byte(body)) {
		if _, err := tx.Exec(ctx, `DELETE FROM key_signatures WHERE user_id = $1 AND target = $2`, userID, deviceID); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO device_keys (user_id, device_id, body) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, device_id) DO UPDATE SET body = excluded.body`, userID, deviceID, body)
	return err
}

// UserKeys are the public keys of a user as a viewer may see them. The values are JSON with the signatures that the viewer may
// see.
type UserKeys struct {
	Devices     map[string]json.RawMessage // by device id, with unsigned.device_display_name
	Master      json.RawMessage            // nil for none; so are the next two
	SelfSigning json.RawMessage
	UserSigning json.RawMessage // for the user alone
}

// Keys returns the keys of users of this server; others are left out. Everybody sees signatures by the users themselves; only the
// viewer sees signatures that the viewer made on keys of others (Client-Server API, "Cross-signing").
func (x *Devices) Keys(ctx context.Context, viewer string, userIDs []string) (map[string]*UserKeys, error) {
	out := map[string]*UserKeys{}
	var users []string
	for _, id := range userIDs {
		if x.accounts.Local(id) && out[id] == nil {
			out[id] = &UserKeys{Devices: map[string]json.RawMessage{}}
			users = append(users, id)
		}
	}
	if len(users) == 0 {
		return out, nil
	}
	known, err := x.accounts.Devices(ctx, users...)
	if err != nil {
		return nil, err
	}
	names := map[deviceKey]string{}
	for _, d := range known {
		names[deviceKey{d.UserID, d.DeviceID}] = d.DisplayName
	}
	signatures, err := loadSignatures(ctx, x.db, users, viewer)
	if err != nil {
		return nil, err
	}
	err = eachRow(
		ctx,
		x.db,
		`SELECT user_id, device_id, body FROM device_keys WHERE user_id = ANY($1)`,
		users,
		func(userID, deviceID, body string) error {
			name, exists := names[deviceKey{userID, deviceID}]
			if !exists {
				return nil
			}
			signed, err := withSignatures([]byte(body), signatures[signedKey{userID, deviceID}])
			if err != nil {
				return err
			}
			unsigned := []byte(`{}`)
			if name != "" {
				unsigned = append(matrix.AppendString([]byte(`{"device_display_name":`), name), '}')
			}
			out[userID].Devices[deviceID] = matrix.SetMember(signed, "unsigned", unsigned)
			return nil
		},
	)
	if err != nil {
		return nil, err
	}
	keys, err := loadSigningKeys(ctx, x.db, users)
	if err != nil {
		return nil, err
	}
	for userID, of := range keys {
		for _, k := range of {
			signed, err := withSignatures([]byte(k.Body), signatures[signedKey{userID, k.Public}])
			if err != nil {
				return nil, err
			}
			switch u := out[userID]; {
			case k.Usage == usageMaster:
				u.Master = signed
			case k.Usage == usageSelf:
				u.SelfSigning = signed
			case userID == viewer:
				u.UserSigning = signed
			}
		}
	}
	return out, nil
}

func withSignatures(body []byte, signatures []keySignature) ([]byte, error) {
	for _, s := range signatures {
		sig, err := matrix.DecodeBase64(s.Signature)
		if err == nil {
			body, err = matrix.AddSignature(body, s.Signer, s.KeyID, sig)
		}
		if err != nil {
			return nil, fmt.Errorf("add the signature of %s by %s: %w", s.Signer, s.KeyID, err)
		}
	}
	return body, nil
}

// eachRow calls fn with each row of a query for users that selects three texts.
func eachRow(ctx context.Context, q db.Querier, query string, users []string, fn func(a, b, c string) error) error {
	return db.Each(func(row db.Row) error {
		var a, b, c string
		if err := row.Scan(&a, &b, &c); err != nil {
			return err
		}
		return fn(a, b, c)
	})(q.Query(ctx, query, users))
}

// hasDevice reports whether the user has the device.
func hasDevice(known []accounts.Device, userID, deviceID string) bool {
	return slices.ContainsFunc(known, func(d accounts.Device) bool { return d.UserID == userID && d.DeviceID == deviceID })
}
