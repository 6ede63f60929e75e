package accounts

import (
	"encoding/json"

	"lyceum/matrix"
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

// mayEdit returns the user of the path, if the caller may change that profile: it is the caller's own, and the caller is not
// suspended.
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
