package accounts

import (
	"encoding/json"
	"errors"
	"maps"
	"math"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

func (a *Accounts) getProfile(r *web.Request) (any, error) {
	fields, err := a.Profile(r.Context(), r.Path("userID"))
	if err != nil {
		return nil, err
	}
	return fields, nil
}

func (a *Accounts) getProfileField(r *web.Request) (any, error) {
	fields, err := a.Profile(r.Context(), r.Path("userID"))
	if err != nil {
		return nil, err
	}
	name := r.Path("field")
	value, ok := fields[name]
	if !ok {
		return nil, matrix.NotFound("The profile has no such field")
	}
	return map[string]json.RawMessage{name: value}, nil
}

// mayEdit checks that the caller may change the profile of the path: their own, and not while suspended.
func (a *Accounts) mayEdit(r *web.Request) (string, error) {
	userID, err := a.ownUserID(r)
	if err != nil {
		return "", err
	}
	if r.Identity.Guest && r.Path("field") != fieldName {
		return "", matrix.GuestAccessForbidden("A guest may set the display name only")
	}
	return userID, r.MayAct()
}

func (a *Accounts) putProfileField(r *web.Request, body *map[string]json.RawMessage) (any, error) {
	userID, err := a.mayEdit(r)
	if err != nil {
		return nil, err
	}
	name := r.Path("field")
	value, ok := (*body)[name]
	if !ok {
		if err := checkField(name, nil); err != nil {
			return nil, err
		}
		return nil, matrix.MissingParam("The body must have the field " + name)
	}
	return nil, a.SetProfile(r.Context(), userID, name, value)
}

func (a *Accounts) deleteProfileField(r *web.Request) (any, error) {
	userID, err := a.mayEdit(r)
	if err != nil {
		return nil, err
	}
	return nil, a.SetProfile(r.Context(), userID, r.Path("field"), nil)
}

// ownRoom gives the caller and the room of the path, "" for a path without one.
func (a *Accounts) ownRoom(r *web.Request) (userID, roomID string, err error) {
	if userID, err = a.ownUserID(r); err != nil {
		return "", "", err
	}
	roomID = r.Path("roomID")
	if roomID != "" && !matrix.ValidRoomID(roomID) {
		return "", "", matrix.InvalidParam("This is not a room id")
	}
	return userID, roomID, nil
}

func (a *Accounts) getData(r *web.Request) (any, error) {
	userID, roomID, err := a.ownRoom(r)
	if err != nil {
		return nil, err
	}
	content, err := a.AccountData(r.Context(), userID, roomID, r.Path("type"))
	if err != nil {
		return nil, err
	}
	if content == nil {
		return nil, matrix.NotFound("There is no such account data")
	}
	return content, nil
}

func (a *Accounts) putDataType(r *web.Request) (any, error) {
	userID, roomID, err := a.ownRoom(r)
	if err != nil {
		return nil, err
	}
	if err := checkWritableType(r.Path("type")); err != nil {
		return nil, err
	}
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	return nil, a.PutAccountData(r.Context(), userID, roomID, r.Path("type"), content)
}

// checkWritableType refuses the types of account data that clients write through other endpoints.
func checkWritableType(typ string) error {
	if typ == "m.fully_read" || typ == "m.push_rules" {
		return matrix.NewError(405, matrix.CodeBadJSON, "The server itself keeps "+typ+"; it has its own endpoints")
	}
	return nil
}

func (a *Accounts) deleteDataType(r *web.Request) (any, error) {
	userID, roomID, err := a.ownRoom(r)
	if err != nil {
		return nil, err
	}
	if err := checkWritableType(r.Path("type")); err != nil {
		return nil, err
	}
	return nil, a.RemoveAccountData(r.Context(), userID, roomID, r.Path("type"))
}

func (a *Accounts) getTags(r *web.Request) (any, error) {
	userID, roomID, err := a.ownRoom(r)
	if err != nil {
		return nil, err
	}
	tags, err := a.Tags(r.Context(), userID, roomID)
	return tagContent{tags}, err
}

const maxTag = 255

// tagWrite gives the caller, the room and the tag of the path.
func (a *Accounts) tagWrite(r *web.Request, kind string) (userID string, w dataWrite, err error) {
	w = dataWrite{Kind: kind, Type: typeTag, Tag: r.Path("tag")}
	if userID, w.RoomID, err = a.ownRoom(r); err == nil && len(w.Tag) > maxTag {
		err = matrix.InvalidParam("A tag has at most 255 bytes")
	}
	return userID, w, err
}

func (a *Accounts) putTag(r *web.Request) (any, error) {
	userID, w, err := a.tagWrite(r, writeTag)
	if err != nil {
		return nil, err
	}
	if w.Content, err = r.Object(); err != nil {
		return nil, err
	}
	var order struct {
		Order *float64 `json:"order"`
	}
	if json.Unmarshal(w.Content, &order) != nil || order.Order != nil && math.IsNaN(*order.Order) {
		return nil, matrix.BadJSON("order must be a number")
	}
	_, err = a.putData(r.Context(), userID, w)
	return nil, err
}

func (a *Accounts) deleteTag(r *web.Request) (any, error) {
	userID, w, err := a.tagWrite(r, writeRemoveTag)
	if err != nil {
		return nil, err
	}
	_, err = a.putData(r.Context(), userID, w)
	return nil, err
}

func (a *Accounts) postFilter(r *web.Request) (any, error) {
	userID, err := a.ownUserID(r)
	if err != nil {
		return nil, err
	}
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	id, err := a.PutFilter(r.Context(), userID, body)
	return map[string]string{"filter_id": id}, err
}

func (a *Accounts) getFilter(r *web.Request) (any, error) {
	userID, err := a.ownUserID(r)
	if err != nil {
		return nil, err
	}
	body, err := a.Filter(r.Context(), userID, r.Path("filterID"))
	return body, err
}

func (a *Accounts) getCapabilities(r *web.Request) (any, error) {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	versions := map[string]string{}
	for _, v := range event.Versions() {
		if versions[v.ID] = "unstable"; v.Stable {
			versions[v.ID] = "stable"
		}
	}
	capabilities := map[string]any{
		"m.change_password": enabled{true},
		"m.room_versions":   map[string]any{"default": a.config.DefaultRoomVersion, "available": versions},
		"m.set_displayname": enabled{true},
		"m.set_avatar_url":  enabled{true},
		"m.3pid_changes":    enabled{false},
		"m.get_login_token": enabled{false},
		"m.profile_fields":  enabled{true},
	}
	if r.Identity.Admin {
		capabilities["m.account_moderation"] = map[string]bool{"suspend": true, "lock": true}
	}
	return map[string]any{"capabilities": capabilities}, nil
}

// specVersions are the versions of the Matrix specification that clients may use here.
var specVersions = []string{
	"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8",
	"v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
}

// features are those that clients ask for by the names they had as proposals. Each is there.
var features = map[string]bool{
	"m.lazy_load_members":          true,
	"org.matrix.e2e_cross_signing": true,
	"org.matrix.msc2285.stable":    true, // private receipts
	"org.matrix.msc2432":           true, // aliases of a room
	"org.matrix.msc3391":           true, // account data is deleted
	"org.matrix.msc3440.stable":    true, // threads
	"org.matrix.msc3771":           true, // receipts in threads
	"org.matrix.msc3773":           true, // counts of threads
	"org.matrix.msc3827.stable":    true, // types of rooms in the directory
	"org.matrix.msc3916.stable":    true, // media with a token
	"org.matrix.msc3981":           true, // relations of relations
	"uk.tcpip.msc4133.stable":      true, // fields of a profile
}

func (a *Accounts) getVersions(*web.Request) (any, error) {
	all := maps.Clone(features)
	maps.Copy(all, a.config.UnstableFeatures)
	return map[string]any{"versions": specVersions, "unstable_features": all}, nil
}

func (a *Accounts) clientWellKnown() map[string]any {
	type base struct {
		URL string `json:"base_url"`
	}
	found := map[string]any{"m.homeserver": base{a.config.WellKnown.Client}}
	if id := a.config.WellKnown.IdentityServer; id != "" {
		found["m.identity_server"] = base{id}
	}
	return found
}

func (a *Accounts) getClientWellKnown(*web.Request) (any, error) {
	if a.config.WellKnown.Client == "" {
		return nil, matrix.NotFound("This server does not say where its client API is")
	}
	return a.clientWellKnown(), nil
}

func (a *Accounts) getServerWellKnown(*web.Request) (any, error) {
	if a.config.WellKnown.Server == "" {
		return nil, matrix.NotFound("This server does not say where its federation API is")
	}
	return map[string]string{"m.server": a.config.WellKnown.Server}, nil
}

func (a *Accounts) getSupport(*web.Request) (any, error) {
	w := a.config.WellKnown
	if w.Support == "" && len(w.Contacts) == 0 {
		return nil, matrix.NotFound("This server does not say whom to ask")
	}
	return struct {
		Contacts []SupportPerson `json:"contacts,omitempty"`
		Page     string          `json:"support_page,omitempty"`
	}{w.Contacts, w.Support}, nil
}

func (a *Accounts) getThreepids(*web.Request) (any, error) {
	return map[string]any{"threepids": []struct{}{}}, nil
}

// whois tells an administrator, or the user, from where the user's devices are used (Client-Server API,
// GET /admin/whois/{userId}).
func (a *Accounts) whois(r *web.Request) (any, error) {
	userID := r.Path("userID")
	if userID != r.UserID() && !r.Identity.Admin {
		return nil, matrix.Forbidden("Only an administrator of the server may look at other users")
	}
	devices, err := a.Devices(r.Context(), userID)
	if err != nil {
		return nil, err
	}
	found := map[string]any{}
	for _, d := range devices {
		connection := map[string]any{"ip": d.SeenIP, "last_seen": d.SeenAt, "user_agent": d.UserAgent}
		found[d.DeviceID] = map[string]any{"sessions": []any{map[string]any{"connections": []any{connection}}}}
	}
	return map[string]any{"user_id": userID, "devices": found}, nil
}

// moderatedUser finds the user of the path for the endpoints under /admin/lock and /admin/suspend.
func (a *Accounts) moderatedUser(r *web.Request) (*user, error) {
	userID := r.Path("userID")
	if !a.Local(userID) {
		return nil, matrix.InvalidParam("The user does not belong to this server")
	}
	if userID == r.UserID() && r.Method != "GET" {
		return nil, matrix.Forbidden("An administrator can not do this to their own account")
	}
	u, err := loadUser(r.Context(), a.db, userID)
	if err != nil || u.deactivatedAt != 0 {
		if err == nil || errors.Is(err, db.ErrNoRows) {
			err = matrix.NotFound("There is no such user")
		}
		return nil, err
	}
	if u.admin && userID != r.UserID() {
		return nil, matrix.Forbidden("The user is an administrator of the server")
	}
	return u, nil
}

func (a *Accounts) getLock(r *web.Request) (any, error) {
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": u.locked}, nil
}

func (a *Accounts) getSuspend(r *web.Request) (any, error) {
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": u.suspended}, nil
}

func (a *Accounts) putLock(r *web.Request, body *struct {
	Locked *bool `json:"locked"`
},
) (any, error) {
	if body.Locked == nil {
		return nil, matrix.MissingParam("locked is needed")
	}
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": *body.Locked}, a.SetRights(r.Context(), u.id, Rights{Locked: body.Locked})
}

func (a *Accounts) putSuspend(r *web.Request, body *struct {
	Suspended *bool `json:"suspended"`
},
) (any, error) {
	if body.Suspended == nil {
		return nil, matrix.MissingParam("suspended is needed")
	}
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": *body.Suspended}, a.SetRights(r.Context(), u.id, Rights{Suspended: body.Suspended})
}
