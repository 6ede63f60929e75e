package devices

import (
	"encoding/json"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/web"
)

// deviceBody is a device as clients get it. Clients expect every member, so an unknown value is null.
type deviceBody struct {
	DeviceID    string  `json:"device_id"`
	DisplayName *string `json:"display_name"`
	SeenIP      *string `json:"last_seen_ip"`
	SeenAt      *int64  `json:"last_seen_ts"`
}

func bodyOf(d accounts.Device) deviceBody {
	return deviceBody{d.DeviceID, nilIfZero(d.DisplayName), nilIfZero(d.SeenIP), nilIfZero(d.SeenAt)}
}

// nilIfZero returns nil for the zero value.
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
	_, err = x.change(r.Context(), r.UserID(), listChange{}) // the keys that others query include the name
	return nil, err
}

type deletion struct {
	Devices []string        `json:"devices"`
	Auth    json.RawMessage `json:"auth"`
}

func (x *Devices) deleteDevice(r *web.Request, body *deletion) (any, error) {
	id := r.Path("deviceID")
	return x.accounts.Interactive(r, body.Auth, struct{}{}, func(p accounts.Proof) (any, error) { // the path names the device
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
