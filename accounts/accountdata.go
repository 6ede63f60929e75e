package accounts

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// AccountDatum is one event of account data of a user (Client-Server API, "Client Config").
type AccountDatum struct {
	RoomID  string          `json:"room,omitempty"` // "" for global
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"` // an object; shared, not to be changed
	Pos     int64           `json:"-"`       // in the user's shard of the stream "account_data"

	erased bool // emptied because the user was erased
}

type dataKey struct{ room, typ string }

// maxOnBus is up to how many bytes a content is published with its row of the stream. Subscribers read larger ones from the database.
const maxOnBus = 2048

// AccountData returns the content of one piece of account data, nil when there is none or it was emptied.
func (a *Accounts) AccountData(ctx context.Context, userID, roomID, typ string) (content json.RawMessage, err error) {
	err = a.accountData.view(ctx, userID, func(u *userData) {
		if datum := u.data[dataKey{roomID, typ}]; datum != nil && string(datum.Content) != emptyObject {
			content = datum.Content
		}
	})
	return content, err
}

// AccountDataSince returns the pieces whose newest change is at after < Pos <= upto, ordered by position. It makes no database
// statement for a user whom this process remembers.
func (a *Accounts) AccountDataSince(ctx context.Context, userID string, after, upto int64) (out []AccountDatum, err error) {
	err = a.accountData.view(ctx, userID, func(u *userData) {
		if u.newest <= after {
			return
		}
		for _, datum := range u.data {
			if datum.Pos > after && datum.Pos <= upto {
				out = append(out, *datum)
			}
		}
	})
	slices.SortFunc(out, func(x, y AccountDatum) int { return int(x.Pos - y.Pos) })
	return out, err
}

// AllAccountData returns all pieces of a user, global and of all rooms, ordered by position, without those that were emptied.
func (a *Accounts) AllAccountData(ctx context.Context, userID string) ([]AccountDatum, error) {
	all, err := a.AccountDataSince(ctx, userID, 0, 1<<62)
	return slices.DeleteFunc(all, func(d AccountDatum) bool { return string(d.Content) == emptyObject }), err
}

// The kinds of dataWrite.
const (
	writePut       = "put"
	writeTag       = "tag"
	writeRemoveTag = "untag"
	writeErase     = "erase"
)

// dataWrite is a request to the owner of the user's shard of "account_data".
type dataWrite struct {
	Kind     string          `json:"kind"`
	RoomID   string          `json:"room,omitempty"`
	Type     string          `json:"type,omitempty"`
	Tag      string          `json:"tag,omitempty"`
	Content  json.RawMessage `json:"content,omitempty"`
	Expected string          `json:"was,omitempty"` // writePut only replaces this content; "" is any
}

// dataResult answers a dataWrite. It is empty when the write was done.
type dataResult struct {
	Current string `json:"now,omitempty"` // the content, when it is not dataWrite.Expected
}

const maxDataType = 255

// PutAccountData stores one piece of account data; roomID is "" for global. content must be a JSON object; {} empties the piece.
// Errors: M_INVALID_PARAM, M_BAD_JSON, M_TOO_LARGE.
func (a *Accounts) PutAccountData(ctx context.Context, userID, roomID, typ string, content json.RawMessage) error {
	_, err := a.SwapAccountData(ctx, userID, DataSwap{RoomID: roomID, Type: typ, New: content})
	return err
}

// RemoveAccountData empties one piece, as {} does, unless it is empty.
func (a *Accounts) RemoveAccountData(ctx context.Context, userID, roomID, typ string) error {
	content, err := a.AccountData(ctx, userID, roomID, typ)
	if err != nil || content == nil {
		return err
	}
	return a.PutAccountData(ctx, userID, roomID, typ, json.RawMessage(emptyObject))
}

// emptyObject is the content of a piece that was emptied, and stands for one that never existed.
const emptyObject = "{}"

// DataSwap replaces the content of one piece of account data, if it is still what the caller has read.
type DataSwap struct {
	RoomID string // "" for global
	Type   string
	Old    string          // the content that must be there, {} for none; "" accepts any
	New    json.RawMessage // a JSON object
}

// SwapAccountData stores s.New, unless the content is not s.Old any more: then it stores nothing and returns the content that
// is there, {} for none. current is "" when s.New was stored.
func (a *Accounts) SwapAccountData(ctx context.Context, userID string, s DataSwap) (current string, err error) {
	content := s.New
	if s.Type == "" || len(s.Type) > maxDataType {
		return "", matrix.InvalidParam("The type of account data has 1 to 255 bytes")
	}
	if content = bytes.TrimSpace(content); len(content) == 0 || content[0] != '{' || !json.Valid(content) {
		return "", matrix.BadJSON("Account data must be a JSON object")
	}
	if len(bytes.TrimSpace(content[1:len(content)-1])) == 0 {
		content = json.RawMessage(emptyObject)
	}
	res, err := a.writeData(ctx, userID, dataWrite{Kind: writePut, RoomID: s.RoomID, Type: s.Type, Content: content, Expected: s.Old})
	return res.Current, err
}

// writeAtOwner does a dataWrite on the owner of the user's shard.
func (a *Accounts) writeAtOwner(ctx context.Context, userID string, w dataWrite) (res dataResult, err error) {
	if w.Kind == writePut && w.Type != typeTag && w.Expected == "" {
		return res, a.storeData(ctx, nil, userID, &AccountDatum{RoomID: w.RoomID, Type: w.Type, Content: w.Content})
	}
	basis, unlock, err := a.beginChange(userID)
	if err != nil {
		return res, err
	}
	defer unlock()
	switch {
	case w.Kind == writePut && w.Expected == "":
		return res, a.storeData(ctx, basis, userID, &AccountDatum{RoomID: w.RoomID, Type: w.Type, Content: w.Content})
	case w.Kind == writePut:
		err = a.changeData(ctx, basis, userID, dataKey{w.RoomID, w.Type}, func(old json.RawMessage) (json.RawMessage, error) {
			if is := cmp.Or(string(old), emptyObject); is != w.Expected {
				res.Current = is
				return nil, nil
			}
			return w.Content, nil
		})
		return res, err
	case w.Kind == writeErase:
		return res, a.eraseAtOwner(ctx, basis, userID)
	}
	return res, a.changeData(ctx, basis, userID, dataKey{w.RoomID, typeTag}, func(old json.RawMessage) (json.RawMessage, error) {
		return changeTag(old, w)
	})
}

// eraseAtOwner empties all account data of a deactivated user, on the owner of the user's shard. Writes that are still queued are not
// in the database at the first read, but they are stored before the rows that this function appends. So it appends at least one
// row, and reads again until nothing is left.
func (a *Accounts) eraseAtOwner(ctx context.Context, basis *stream.Basis, userID string) error {
	for first := true; ; first = false {
		all, err := loadData(ctx, a.db, userID)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(datum *AccountDatum) bool { return string(datum.Content) == "{}" })
		if len(all) == 0 && first {
			all = []*AccountDatum{{Type: typeIgnoredUsers}}
		}
		if len(all) == 0 {
			return nil
		}
		for _, datum := range all {
			datum.Content, datum.erased = json.RawMessage("{}"), true
		}
		if err := a.appendData(ctx, basis, userID, all...); err != nil {
			return err
		}
	}
}

// beginChange begins to read account data of a user and to write what depends on it. This process must own the user's shard; it
// does one such change of a shard at a time, until unlock is called. A write with the basis fails if the process lost the shard
// since. Errors: stream.ErrNotOwner.
func (a *Accounts) beginChange(userID string) (basis *stream.Basis, unlock func(), err error) {
	lock := &a.accountData.writes[a.accountData.stream.Shard(userID)%len(a.accountData.writes)]
	lock.Lock()
	if basis, err = a.accountData.stream.Basis(userID); err != nil {
		lock.Unlock()
		return nil, nil, err
	}
	return basis, lock.Unlock, nil
}

// ChangeAccountData replaces a piece of account data atomically by the result of change; nil changes nothing. old is nil when there
// is none. It must run in the process that owns the user's shard of DataStream: elsewhere, and when the shard moves meanwhile,
// the error is stream.ErrNotOwner and nothing was changed.
func (a *Accounts) ChangeAccountData(
	ctx context.Context,
	userID, roomID, typ string,
	change func(old json.RawMessage) (json.RawMessage, error),
) error {
	basis, unlock, err := a.beginChange(userID)
	if err != nil {
		return err
	}
	defer unlock()
	return a.changeData(ctx, basis, userID, dataKey{roomID, typ}, change)
}

func (a *Accounts) changeData(
	ctx context.Context,
	basis *stream.Basis,
	userID string,
	key dataKey,
	change func(old json.RawMessage) (json.RawMessage, error),
) error {
	var content string
	err := a.db.QueryRow(ctx, `SELECT content FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3`, userID, key.room, key.typ).
		Scan(&content)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	fresh, err := change(json.RawMessage(content))
	if err != nil || fresh == nil {
		return err
	}
	return a.storeData(ctx, basis, userID, &AccountDatum{RoomID: key.room, Type: key.typ, Content: fresh})
}

// storeData stores a piece, if it fits into the quota of the user. basis is nil for a write that depends on no read.
func (a *Accounts) storeData(ctx context.Context, basis *stream.Basis, userID string, datum *AccountDatum) error {
	done, err := a.reserve(ctx, userID, datum)
	if err != nil {
		return err
	}
	defer done()
	return a.appendData(ctx, basis, userID, datum)
}

// appendData appends pieces to the stream and waits until they are stored. basis is nil for writes that depend on no read.
func (a *Accounts) appendData(ctx context.Context, basis *stream.Basis, userID string, data ...*AccountDatum) error {
	if len(data) == 0 {
		return nil
	}
	st := a.accountData.stream
	entries := make([]*stream.Entry, len(data))
	for n, datum := range data {
		row := stream.Row{Shard: st.Shard(userID), Key: userID, Value: datum}
		if len(datum.Content) <= maxOnBus {
			b, err := json.Marshal(datum)
			if err != nil {
				return err
			}
			row.Data = b
		}
		entries[n] = &stream.Entry{Stream: st, Row: row}
	}
	if basis == nil {
		return a.deps.Process.Streams.Append(ctx, entries...)
	}
	ticket, err := basis.Enqueue(entries...)
	if err != nil {
		return err
	}
	ticket.Seal()
	// It waits even when ctx ends: the next reader under the lock must find the row in the database, or none if it failed.
	return ticket.Wait(context.WithoutCancel(ctx))
}

// eraseData empties all account data of a user.
func (a *Accounts) eraseData(ctx context.Context, userID string) error {
	_, err := a.writeData(ctx, userID, dataWrite{Kind: writeErase})
	return err
}
