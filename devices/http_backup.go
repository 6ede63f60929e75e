package devices

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// versionBody is a backup version as the client sends it.
type versionBody struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   *string         `json:"version"`
}

// maxAuthData bounds what every request for a backup reads, in bytes: a public key and signatures.
const maxAuthData = 64 << 10

func (b *versionBody) check() error {
	if b.Algorithm == "" || len(b.AuthData) == 0 {
		return matrix.MissingParam("algorithm and auth_data are needed")
	}
	if !validName(b.Algorithm) {
		return matrix.InvalidParam("The name of an algorithm has at most 255 bytes, without NUL")
	}
	if b.AuthData[0] != '{' {
		return matrix.BadJSON("auth_data must be an object")
	}
	if len(b.AuthData) > maxAuthData {
		return matrix.TooLarge(fmt.Sprintf("auth_data has at most %d bytes", maxAuthData))
	}
	return nil
}

func (x *Devices) postBackup(r *web.Request, body *versionBody) (any, error) {
	if err := body.check(); err != nil {
		return nil, err
	}
	n, err := x.newBackup(r.Context(), r.UserID(), body.Algorithm, body.AuthData)
	if err != nil {
		return nil, err
	}
	return map[string]string{"version": strconv.FormatInt(n, 10)}, nil
}

func (x *Devices) getBackup(r *web.Request) (any, error) {
	return x.backup(r.Context(), x.db, r.UserID(), r.Path("version"))
}

func (x *Devices) putBackup(r *web.Request, body *versionBody) (any, error) {
	if err := body.check(); err != nil {
		return nil, err
	}
	if body.Version != nil && *body.Version != r.Path("version") {
		return nil, matrix.InvalidParam("The version of the body must be that of the path, " + r.Path("version"))
	}
	return nil, x.changeBackup(r.Context(), r.UserID(), r.Path("version"), body.Algorithm, body.AuthData)
}

func (x *Devices) removeBackup(r *web.Request) (any, error) {
	return nil, x.deleteBackup(r.Context(), r.UserID(), r.Path("version"))
}

// versionOf returns the version in the query. Errors: M_MISSING_PARAM.
func versionOf(r *web.Request) (string, error) {
	version := r.QueryParam("version")
	if version == "" {
		return "", matrix.MissingParam("version is missing: expected the version of the backup")
	}
	return version, nil
}

func (x *Devices) putSessions(r *web.Request, rooms map[string]backupSessions) (any, error) {
	version, err := versionOf(r)
	if err != nil {
		return nil, err
	}
	keys, err := flatten(rooms)
	if err != nil {
		return nil, err
	}
	return x.putBackupKeys(r.Context(), r.UserID(), version, keys)
}

func (x *Devices) putAllKeys(r *web.Request, body *struct {
	Rooms map[string]backupSessions `json:"rooms"`
},
) (any, error) {
	if body.Rooms == nil {
		return nil, matrix.MissingParam("rooms is missing: expected sessions by room id")
	}
	return x.putSessions(r, body.Rooms)
}

func (x *Devices) putRoomKeys(r *web.Request, body *backupSessions) (any, error) {
	if body.Sessions == nil {
		return nil, matrix.MissingParam("sessions is missing: expected sessions by id")
	}
	return x.putSessions(r, map[string]backupSessions{r.Path("roomID"): *body})
}

func (x *Devices) putSession(r *web.Request, body *backupKey) (any, error) {
	return x.putSessions(r, map[string]backupSessions{r.Path("roomID"): {Sessions: map[string]*backupKey{r.Path("sessionID"): body}}})
}

func (x *Devices) removeBackupKeys(r *web.Request) (any, error) {
	version, err := versionOf(r)
	if err != nil {
		return nil, err
	}
	return x.deleteBackupKeys(r.Context(), r.UserID(), version, r.Path("roomID"), r.Path("sessionID"))
}

func (x *Devices) getSession(r *web.Request) (any, error) {
	version, err := versionOf(r)
	if err != nil {
		return nil, err
	}
	b, err := x.backup(r.Context(), x.db, r.UserID(), version)
	if err != nil {
		return nil, err
	}
	found, err := scanBackupKeys(
		r.Context(), x.db, backupKeyColumns+`AND room_id = $3 AND session_id = $4`, r.UserID(), b.number, r.Path("roomID"),
		r.Path("sessionID"),
	)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, matrix.NotFound("The backup has no such session")
	}
	return found[0], nil
}

const backupPageSize = 200 // sessions of at most maxSessionData

// getBackupKeys sends the sessions of a version, of one room or of all. A backup may be large, so it is read and sent page by
// page.
func (x *Devices) getBackupKeys(r *web.Request) (any, error) {
	version, err := versionOf(r)
	if err != nil {
		return nil, err
	}
	ctx, roomID := r.Context(), r.Path("roomID")
	b, err := x.backup(ctx, x.db, r.UserID(), version)
	if err != nil {
		return nil, err
	}
	next := func(after sessionKey) ([]*backupKey, error) {
		return x.backupPage(ctx, b, roomID, after)
	}
	page, err := next(sessionKey{}) // an error before the first byte is still answered as one
	if err != nil {
		return nil, err
	}
	return &web.Stream{Header: map[string][]string{"Content-Type": {"application/json"}}, Write: func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 64<<10)
		if err := writeBackup(out, page, roomID == "", next); err != nil {
			return err
		}
		return out.Flush()
	}}, nil
}

// writeBackup writes {"rooms":{room:{"sessions":{…}}}} if rooms is set, else {"sessions":{…}}. page is the first page; next loads
// the one after a session.
func writeBackup(out *bufio.Writer, page []*backupKey, rooms bool, next func(after sessionKey) ([]*backupKey, error)) error {
	begin, end := `{"sessions":{`, `}}`
	if rooms {
		begin, end = `{"rooms":{`, `}}`
	}
	out.WriteString(begin)
	var last sessionKey
	first := true
	for len(page) > 0 {
		for _, k := range page {
			at := sessionKey{k.roomID, k.sessionID}
			switch {
			case rooms && (first || at.roomID != last.roomID):
				if !first {
					out.WriteString(`}},`)
				}
				out.Write(append(matrix.AppendString(nil, at.roomID), `:{"sessions":{`...))
			case !first:
				out.WriteByte(',')
			}
			text, err := json.Marshal(k)
			if err != nil {
				return err
			}
			out.Write(append(matrix.AppendString(nil, at.sessionID), ':'))
			out.Write(text)
			last, first = at, false
		}
		if len(page) < backupPageSize {
			break
		}
		var err error
		if page, err = next(last); err != nil {
			return err
		}
	}
	if rooms && !first {
		out.WriteString(`}}`)
	}
	_, err := out.WriteString(end) // a bufio.Writer keeps its first error
	return err
}
