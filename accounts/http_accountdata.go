package accounts

import (
	"encoding/json"
	"math"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// ownRoom returns the caller, who must be the user of the path, and the room of the path, "" for a path without one.
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

// tagWrite returns the caller and a write for the room and the tag of the path.
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
	_, err = a.writeData(r.Context(), userID, w)
	return nil, err
}

func (a *Accounts) deleteTag(r *web.Request) (any, error) {
	userID, w, err := a.tagWrite(r, writeRemoveTag)
	if err != nil {
		return nil, err
	}
	_, err = a.writeData(r.Context(), userID, w)
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
