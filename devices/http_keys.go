package devices

import (
	"cmp"
	"encoding/json"
	"slices"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/web"
)

// deviceBody is a device as the client sees it. What is not known is null: clients expect each member.
type deviceBody struct {
	DeviceID    string  `json:"device_id"`
	DisplayName *string `json:"display_name"`
	SeenIP      *string `json:"last_seen_ip"`
	SeenAt      *int64  `json:"last_seen_ts"`
}

func bodyOf(d accounts.Device) deviceBody {
	return deviceBody{d.DeviceID, nilIfZero(d.DisplayName), nilIfZero(d.SeenIP), nilIfZero(d.SeenAt)}
}

// nilIfZero gives nil for the zero value.
func nilIfZero[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

func (x *Devices) getDevices(r *web.Request) (any, error) {
	all, err := x.accounts.Devices(r.Context(), r.UserID())
	if err != nil {
		return nil, err
	}
	list := make([]deviceBody, len(all))
	for i, d := range all {
		list[i] = bodyOf(d)
	}
	return map[string]any{"devices": list}, nil
}

func (x *Devices) getDevice(r *web.Request) (any, error) {
	d, err := x.accounts.Device(r.Context(), r.UserID(), r.Path("deviceID"))
	if err != nil {
		return nil, err
	}
	return bodyOf(d), nil
}

func (x *Devices) putDevice(r *web.Request, body *struct {
	DisplayName *string `json:"display_name"`
},
) (any, error) {
	old, err := x.accounts.Device(r.Context(), r.UserID(), r.Path("deviceID"))
	if err != nil || body.DisplayName == nil || *body.DisplayName == old.DisplayName {
		return nil, err
	}
	if err := x.accounts.RenameDevice(r.Context(), r.UserID(), old.DeviceID, *body.DisplayName); err != nil {
		return nil, err
	}
	_, err = x.change(r.Context(), r.UserID(), listChange{}) // the name stands beside the keys
	return nil, err
}

type deletion struct {
	Devices []string        `json:"devices"`
	Auth    json.RawMessage `json:"auth"`
}

func (x *Devices) deleteDevice(r *web.Request, body *deletion) (any, error) {
	id := r.Path("deviceID")
	return x.accounts.Interactive(r, body.Auth, struct{}{}, func(p accounts.Proof) (any, error) { // the path says which
		return nil, x.accounts.RemoveDevices(r.Context(), r.UserID(), p, []string{id})
	})
}

func (x *Devices) deleteDevices(r *web.Request, body *deletion) (any, error) {
	if body.Devices == nil {
		return nil, matrix.MissingParam("devices is missing: expected a list of device ids")
	}
	for _, id := range body.Devices {
		if !validName(id) {
			return nil, matrix.InvalidParam("A device id has 1 to 255 bytes, without NUL")
		}
	}
	return x.accounts.Interactive(r, body.Auth, map[string]any{"devices": body.Devices}, func(p accounts.Proof) (any, error) {
		return nil, x.accounts.RemoveDevices(r.Context(), r.UserID(), p, body.Devices)
	})
}

type uploadBody struct {
	DeviceKeys json.RawMessage `json:"device_keys"`
	OneTime    object          `json:"one_time_keys"`
	Fallback   object          `json:"fallback_keys"`
}

// parse checks all of an upload before any of it is stored.
func (b *uploadBody) parse(userID, deviceID string) (deviceKeys string, u keyUpload, err error) {
	if len(b.DeviceKeys) > 0 && string(b.DeviceKeys) != "null" {
		if deviceKeys, err = parseDeviceKeys(b.DeviceKeys, userID, deviceID); err != nil {
			return "", u, err
		}
	}
	u.DeviceID = deviceID
	if u.OneTime, err = parsePublicKeys(b.OneTime); err != nil {
		return "", u, err
	}
	if u.Fallback, err = parsePublicKeys(b.Fallback); err != nil {
		return "", u, err
	}
	return deviceKeys, u, nil
}

func (x *Devices) postUpload(r *web.Request, body *uploadBody) (any, error) {
	userID, deviceID := r.UserID(), r.DeviceID()
	if deviceID == "" {
		return nil, matrix.NewError(400, matrix.CodeUnknown, "Keys belong to a device, and this access token has none")
	}
	deviceKeys, u, err := body.parse(userID, deviceID)
	if err != nil {
		return nil, err
	}
	u.Token = r.Identity.TokenID
	old := ""
	if deviceKeys != "" {
		if old, err = x.storedDeviceKeys(r.Context(), userID, deviceID); err != nil {
			return nil, err
		}
	}
	adds, replaced := len(u.OneTime)+len(u.Fallback) > 0, replacesIdentity(old, deviceKeys)
	if adds && !replaced { // a new identity ends the keys that are stored
		// Before anything is written. Who writes looks again, because other uploads may come in between.
		if _, refused, err := u.check(r.Context(), x.db, userID); err != nil || refused != nil {
			return nil, cmp.Or(err, refused)
		}
	}
	if deviceKeys != "" {
		if err := x.putDeviceKeys(r.Context(), r.Identity, old, deviceKeys); err != nil {
			return nil, err
		}
	}
	counts := &KeyCounts{}
	switch {
	case adds:
		*counts, err = x.upload(r.Context(), userID, u)
	case replaced: // by another process perhaps, of which this one will hear
		counts, err = x.loadCounts(r.Context(), userID, deviceID)
	default:
		counts.OneTime, _, err = x.OneTimeKeyCounts(r.Context(), userID, deviceID)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"one_time_key_counts": counts.OneTime}, nil
}

const (
	queriedAtOnce = 500      // users
	chargedKeys   = 64 << 10 // bytes of their keys that count
)

func (x *Devices) postQuery(r *web.Request, body *struct {
	DeviceKeys map[string][]string `json:"device_keys"`
},
) (any, error) {
	if body.DeviceKeys == nil {
		return nil, matrix.MissingParam("device_keys is missing: expected lists of device ids by user id")
	}
	users := make([]string, 0, len(body.DeviceKeys))
	for userID := range body.DeviceKeys {
		users = append(users, userID)
	}
	devices, master, self, user := map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}
	for some := range slices.Chunk(users, queriedAtOnce) {
		found, err := x.Keys(r.Context(), r.UserID(), some)
		if err != nil {
			return nil, err
		}
		size := 0
		add := func(to map[string]any, userID string, key json.RawMessage) {
			if key != nil {
				to[userID] = key
				size += len(key)
			}
		}
		for userID, keys := range found {
			if wanted := body.DeviceKeys[userID]; len(wanted) > 0 {
				some := map[string]json.RawMessage{}
				for _, id := range wanted {
					if key, ok := keys.Devices[id]; ok {
						some[id] = key
					}
				}
				keys.Devices = some
			}
			devices[userID] = keys.Devices
			for _, key := range keys.Devices {
				size += len(key)
			}
			add(master, userID, keys.Master)
			add(self, userID, keys.SelfSigning)
			add(user, userID, keys.UserSigning)
		}
		if size >= chargedKeys {
			if err := r.Charge(2 * size); err != nil { // once more in the answer
				return nil, err
			}
		}
	}
	return map[string]any{
		"device_keys": devices, "failures": map[string]any{},
		"master_keys": master, "self_signing_keys": self, "user_signing_keys": user,
	}, nil
}

func (x *Devices) postClaim(r *web.Request, body *struct {
	Keys map[string]map[string]string `json:"one_time_keys"`
},
) (any, error) {
	if body.Keys == nil {
		return nil, matrix.MissingParam("one_time_keys is missing: expected algorithms by user id and device id")
	}
	var claims []Claim
	for userID, devices := range body.Keys {
		for deviceID, algorithm := range devices {
			claims = append(claims, Claim{userID, deviceID, algorithm})
		}
	}
	got, err := x.ClaimKeys(r.Context(), r.Once(), claims)
	if err != nil {
		return nil, err
	}
	keys := map[string]map[string]object{}
	for _, k := range got {
		if keys[k.UserID] == nil {
			keys[k.UserID] = map[string]object{}
		}
		keys[k.UserID][k.DeviceID] = object{k.Algorithm + ":" + k.KeyID: json.RawMessage(k.Body)}
	}
	return map[string]any{"one_time_keys": keys, "failures": map[string]any{}}, nil
}

func (x *Devices) putToDevice(r *web.Request, body *struct {
	Messages map[string]map[string]json.RawMessage `json:"messages"`
},
) (any, error) {
	if body.Messages == nil {
		return nil, matrix.MissingParam("messages is missing: expected contents by user id and device id")
	}
	return nil, x.Send(r.Context(), Delivery{
		Sender: r.UserID(), DeviceID: r.DeviceID(), Type: r.Path("type"), TxnID: r.Path("txnID"), Messages: body.Messages,
	})
}

func (x *Devices) getChanges(r *web.Request) (any, error) {
	from, to := r.Query1("from"), r.Query1("to")
	if from == "" || to == "" {
		return nil, matrix.MissingParam("from and to are needed: tokens that /sync gave")
	}
	after, err := x.positionsOf(from, 0) // all that ever was
	if err != nil {
		return nil, err
	}
	upto, err := x.positionsOf(to, 1<<62) // now
	if err != nil {
		return nil, err
	}
	changed, err := x.ChangedUsers(r.Context(), r.UserID(), after, upto)
	if err != nil {
		return nil, err
	}
	changed, left, err := x.deps.SharedRooms.SharedRoomChanges(r.Context(), r.UserID(), from, to, changed)
	if err != nil {
		return nil, err
	}
	return map[string]any{"changed": changed, "left": left}, nil
}

// positionsOf reads the positions of the device lists from a token of /sync; where it does not say them, they are otherwise.
// That is no error: the token may be of another history of the database, or of another number of shards.
func (x *Devices) positionsOf(token string, otherwise int64) ([]int64, error) {
	positions := make([]int64, x.lists.Shards())
	t, err := x.layout.Decode(token, positions)
	if err != nil {
		return nil, matrix.InvalidParam("Expected a token that /sync of this server gave out").With(err)
	}
	if t.Log != x.deps.Process.LogEpoch() || !t.Has(x.lists.Number()) {
		for i := range positions {
			positions[i] = otherwise
		}
	}
	return positions, nil
}

type signingBody struct {
	Master json.RawMessage `json:"master_key"`
	Self   json.RawMessage `json:"self_signing_key"`
	User   json.RawMessage `json:"user_signing_key"`
	Auth   json.RawMessage `json:"auth"`
}

// parse gives the keys that the body has, the master key first.
func (b *signingBody) parse(userID string) (keys []signingKey, err error) {
	for _, part := range []struct {
		usage string
		raw   json.RawMessage
	}{{usageMaster, b.Master}, {usageSelf, b.Self}, {usageUser, b.User}} {
		if len(part.raw) == 0 || string(part.raw) == "null" {
			continue
		}
		key, err := parseSigningKey(part.raw, userID, part.usage)
		if err != nil {
			return nil, err
		}
		keys = append(keys, *key)
	}
	return keys, nil
}

func (x *Devices) postSigning(r *web.Request, body *signingBody) (any, error) {
	keys, err := body.parse(r.UserID())
	if err != nil {
		return nil, err
	}
	u, err := x.checkSigningUpload(r.Context(), r.UserID(), keys)
	if err != nil || len(u.keys) == 0 {
		return nil, err
	}
	store := func(p accounts.Proof) (any, error) {
		c := listChange{Signing: u.keys, SeenMaster: &u.seen, Token: r.Identity.TokenID, Proof: p}
		if !slices.ContainsFunc(u.keys, func(k signingKey) bool { return k.Usage != usageUser }) {
			c.Viewer = r.UserID() // nobody else sees a user-signing key
		}
		res, err := x.change(r.Context(), r.UserID(), c)
		if err == nil && res.Refused {
			err = matrix.UnknownToken(false)
		}
		if err == nil && res.Unproved {
			err = accounts.ErrWrongPassword
		}
		if err == nil && res.Conflict {
			err = matrix.NewError(409, matrix.CodeUnknown, "The user's cross-signing keys were changed meanwhile: look at them and try again").
				With(errReplaced)
		}
		return nil, err
	}
	if !u.replace {
		return store("")
	}
	params := map[string]json.RawMessage{"master_key": body.Master, "self_signing_key": body.Self, "user_signing_key": body.User}
	return x.accounts.Interactive(r, body.Auth, params, store)
}

func (x *Devices) postSignatures(r *web.Request, body *map[string]map[string]json.RawMessage) (any, error) {
	failures, err := x.UploadSignatures(r.Context(), r.Identity, *body)
	if err != nil {
		return nil, err
	}
	return map[string]any{"failures": failures}, nil
}
