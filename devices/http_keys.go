package devices

import (
	"cmp"
	"encoding/json"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/web"
)

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
