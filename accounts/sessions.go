package accounts

import (
	"context"
	"encoding/json"

	"lyceum/platform/stream"
)

// The kinds of sessionChange.
const (
	changeRemove     = "remove"     // removes devices with their tokens
	changeConfirm    = "confirm"    // first use of a refreshed token: the pair before it ends
	changeLogin      = "login"      // a log-in with a device id that the client chose: older tokens of the device end
	changeDevice     = "device"     // creates a device without a token
	changeReplace    = "replace"    // sent by processes of the previous version before a log-in: ends the device's tokens
	changePassword   = "password"   // sets a password, and removes the other devices with All
	changeDeactivate = "deactivate" // ends the account
	changeRights     = "rights"     // sets admin, locked, suspended
	changeProfile    = "profile"    // sets or removes a field of the profile
	changeUpgrade    = "upgrade"    // a guest becomes a user with a password
)

// sessionChange is a request to the owner of the user's shard of "sessions", which does it in one transaction.
type sessionChange struct {
	Kind      string    `json:"kind"`
	Devices   []string  `json:"devices,omitempty"`
	All       bool      `json:"all,omitempty"`    // remove all devices
	Except    string    `json:"except,omitempty"` // except this one
	TokenPair int64     `json:"pair,omitempty"`   // tokens.id
	Proof     Proof     `json:"proof,omitempty"`  // change nothing if it is not valid any more
	Password  string    `json:"password,omitempty"`
	Erase     bool      `json:"erase,omitempty"`
	OnlyGuest bool      `json:"only_guest,omitempty"` // a deactivation: of a guest who is no user by now
	Admin     *bool     `json:"admin,omitempty"`
	Locked    *bool     `json:"locked,omitempty"`
	Suspended *bool     `json:"suspended,omitempty"`
	At        int64     `json:"at,omitempty"` // ms
	Login     *newLogin `json:"login,omitempty"`

	Interaction string `json:"interaction,omitempty"` // id of the stored interaction that holds a use of Token
	Token       string `json:"token,omitempty"`       // the registration token of a guest who becomes a user, "" for none

	Field string          `json:"field,omitempty"` // name of the profile field
	Value json.RawMessage `json:"value,omitempty"` // empty removes the field
}

// sessionResult answers a sessionChange.
type sessionResult struct {
	Found           bool             `json:"found"`
	Devices         []string         `json:"devices,omitempty"`
	Pos             int64            `json:"pos,omitempty"`      // of the row of the stream
	Changed         bool             `json:"changed,omitempty"`  // the profile was changed
	TooLong         int              `json:"too_long,omitempty"` // bytes that the profile would have, if more than allowed
	PendingCleanups []pendingCleanup `json:"left,omitempty"`     // of the device, which must be done before it is made again
	Created         bool             `json:"created,omitempty"`  // the device is new
	Ended           bool             `json:"ended,omitempty"`    // the device had tokens
	Stale           bool             `json:"stale,omitempty"`    // the password was changed meanwhile
}

// pendingChange is the Value of a row of the stream that is not stored yet.
type pendingChange struct {
	sessionChange
	result sessionResult
}

// changeAtOwner does a sessionChange on the owner of the user's shard.
func (a *Accounts) changeAtOwner(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	st := a.sessions.stream
	p := &pendingChange{sessionChange: c}
	e := &stream.Entry{Stream: st, Row: stream.Row{Shard: st.Shard(userID), Key: userID, Data: []byte("{}"), Value: p}, Bytes: len(c.Value)}
	err := a.deps.Process.Streams.Append(ctx, e)
	p.result.Pos = e.Pos
	return p.result, err
}

// removeDevices does a change that may remove devices, waits for the requests under way that use their tokens, and notifies the
// listeners. Errors: M_FORBIDDEN when the proof is not valid any more.
func (a *Accounts) removeDevices(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	c.At = a.nowMs()
	res, err := a.change(ctx, userID, c)
	if err == nil && res.Stale {
		err = ErrWrongPassword
	}
	if err == nil && (c.All || len(c.Devices) > 0) { // also when the devices were removed before: that request may still be waiting
		a.awaitUnderWay(ctx, userID)
	}
	if err == nil && len(res.Devices) > 0 {
		a.cleanUpDevicesNow(ctx, userID, res)
	}
	return res, err
}

// RemoveDevices deletes devices of a user with their tokens and, by the DeviceListeners, all their data. It ignores unknown
// devices. proof is "" where the user's password was not asked for.
func (a *Accounts) RemoveDevices(ctx context.Context, userID string, proof Proof, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, Proof: proof, Devices: deviceIDs})
	return err
}

// Logout removes all devices of a user except one ("" for no exception).
func (a *Accounts) Logout(ctx context.Context, userID, except string) error {
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, All: true, Except: except})
	return err
}
