package accounts

import (
	"context"
	"encoding/json"

	"lyceum/platform/stream"
)

// The kinds of sessionChange.
const (
	changeRemove     = "remove"     // devices with their tokens
	changeConfirm    = "confirm"    // a refreshed token was used: the pair before it ends
	changeLogin      = "login"      // a log-in with a device id that the client chose: what tokens the device has end
	changeDevice     = "device"     // a device without a token
	changeReplace    = "replace"    // what processes of the version before ask for ahead of a log-in: the device's tokens end
	changePassword   = "password"   // a new password, and the other devices go if All
	changeDeactivate = "deactivate" // the account ends
	changeRights     = "rights"     // admin, locked, suspended
	changeProfile    = "profile"    // a field of the profile
	changeUpgrade    = "upgrade"    // a guest becomes a user with a password
)

// sessionChange is what the owner of the user's shard of "sessions" does in one transaction.
type sessionChange struct {
	Kind      string    `json:"kind"`
	Devices   []string  `json:"devices,omitempty"`
	All       bool      `json:"all,omitempty"`    // all devices
	Except    string    `json:"except,omitempty"` // but this one
	TokenPair int64     `json:"pair,omitempty"`   // id in tokens
	Proof     Proof     `json:"proof,omitempty"`  // change nothing when it does not hold any more
	Password  string    `json:"password,omitempty"`
	Erase     bool      `json:"erase,omitempty"`
	OnlyGuest bool      `json:"only_guest,omitempty"` // a deactivation: of a guest who is no user by now
	Admin     *bool     `json:"admin,omitempty"`
	Locked    *bool     `json:"locked,omitempty"`
	Suspended *bool     `json:"suspended,omitempty"`
	At        int64     `json:"at,omitempty"` // ms
	Login     *newLogin `json:"login,omitempty"`

	Interaction string `json:"interaction,omitempty"` // the row that holds Token
	Token       string `json:"token,omitempty"`       // the registration token that a guest uses, "" for none

	Field string          `json:"field,omitempty"` // of the profile
	Value json.RawMessage `json:"value,omitempty"` // nothing removes it
}

// sessionResult tells what was removed.
type sessionResult struct {
	Found           bool             `json:"found"`
	Devices         []string         `json:"devices,omitempty"`
	Pos             int64            `json:"pos,omitempty"`      // of the change
	Changed         bool             `json:"changed,omitempty"`  // the profile is another
	TooLong         int              `json:"too_long,omitempty"` // bytes that the profile would have, when that is too much
	PendingCleanups []pendingCleanup `json:"left,omitempty"`     // of the device, which must be done before it is made again
	Created         bool             `json:"created,omitempty"`  // the device is new
	Ended           bool             `json:"ended,omitempty"`    // the device had tokens
	Stale           bool             `json:"stale,omitempty"`    // the password is another by now
}

// pendingChange is the Value of a row on its way into the database.
type pendingChange struct {
	sessionChange
	result sessionResult
}

// changeHere runs on the owner of the user's shard.
func (a *Accounts) changeHere(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	st := a.sessions.stream
	p := &pendingChange{sessionChange: c}
	e := &stream.Entry{Stream: st, Row: stream.Row{Shard: st.Shard(userID), Key: userID, Data: []byte("{}"), Value: p}, Bytes: len(c.Value)}
	err := a.deps.Process.Streams.Append(ctx, e)
	p.result.Pos = e.Pos
	return p.result, err
}

// removeDevices changes sessions and tells the listeners which devices are gone. Errors: M_FORBIDDEN when the proof does not hold.
func (a *Accounts) removeDevices(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	c.At = a.nowMs()
	res, err := a.change(ctx, userID, c)
	if err == nil && res.Stale {
		err = ErrWrongPassword
	}
	if err == nil && (c.All || len(c.Devices) > 0) { // also of what is gone already: who removed it may be waiting
		a.awaitUnderWay(ctx, userID)
	}
	if err == nil && len(res.Devices) > 0 {
		a.cleanUpDevicesNow(ctx, userID, res)
	}
	return res, err
}

// RemoveDevices ends devices of a user: their tokens, and through the DeviceListeners all that belongs to
// them. Unknown devices are left out silently. proof is "" where the user's password was not asked for.
func (a *Accounts) RemoveDevices(ctx context.Context, userID string, proof Proof, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, Proof: proof, Devices: deviceIDs})
	return err
}

// Logout ends all devices of a user but one ("" for really all).
func (a *Accounts) Logout(ctx context.Context, userID, except string) error {
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, All: true, Except: except})
	return err
}
