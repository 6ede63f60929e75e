package event

import (
	"crypto/sha256"
	"crypto/subtle"
	"sync"

	"lyceum/matrix"
)

// scratch holds intermediate texts of hashes and signatures.
var scratch = sync.Pool{New: func() any {
	b := make([]byte, 0, 4096)
	return &b
}}

// Canonical gives the canonical form raw must have in rooms of version v:
// strict since room version 6.
func (v Version) Canonical(raw []byte) ([]byte, error) {
	if v.StrictJSON {
		return matrix.CanonicalJSON(raw)
	}
	return matrix.CanonicalJSONLenient(raw)
}

// Parse reads a PDU from another server. It checks the format of the room
// version and all size limits, drops unsigned, and computes id and content
// hash. When the content hash does not match, the result is the redacted
// event and Pruned is set (server-server API, "Validating hashes and
// signatures on received events"). Signatures are not checked: see
// VerifySignatures. raw must not change later. Errors are *matrix.Error with
// M_BAD_JSON, M_NOT_JSON or M_TOO_LARGE. It is for federation.
func Parse(v Version, raw []byte) (*Event, error) {
	obj, err := v.Canonical(raw)
	if err != nil {
		return nil, matrix.BadJSON("Invalid event: not canonical JSON").With(err)
	}
	if matrix.Lookup(obj, "unsigned") != nil {
		obj = matrix.AppendWithout(make([]byte, 0, len(obj)), obj, "unsigned")
	}
	if len(obj) > MaxBytes {
		return nil, errTooLong()
	}
	e := &Event{JSON: obj, version: v.ref()}
	found, err := e.readMembers()
	if err != nil {
		return nil, err
	}
	if found&needed != needed {
		return nil, bad("a required member is missing")
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	if !e.contentHashMatches(buf) {
		id := e.ID
		e = &Event{JSON: appendRedacted(make([]byte, 0, len(obj)), e.version, obj, true), version: e.version, Pruned: true, ID: id}
		if _, err := e.readMembers(); err != nil {
			return nil, err
		}
	}
	e.setID(buf)
	return e, nil
}

// ParseTrusted reads an event this server stored: raw is its canonical PDU
// and id its event id. Nothing is checked or computed. raw must not change
// later.
func ParseTrusted(v Version, raw []byte, id string) (*Event, error) {
	e := &Event{JSON: raw, version: v.ref(), ID: id}
	if _, err := e.readMembers(); err != nil {
		return nil, err
	}
	e.ID = id
	if !e.hasRoom && v.RoomIDIsCreateHash && e.Type == TypeCreate && id != "" {
		e.RoomID = "!" + id[1:]
	}
	return e, nil
}

// check holds the limits of values.
func (e *Event) check() error {
	v := e.version
	switch {
	case len(e.Type) > MaxFieldBytes:
		return tooLong("type")
	case len(e.Sender) > MaxFieldBytes:
		return tooLong("sender")
	case len(e.stateKey) > MaxFieldBytes:
		return tooLong("state_key")
	case len(e.RoomID) > MaxFieldBytes:
		return tooLong("room_id")
	case !matrix.ValidUserID(e.Sender):
		return bad("sender is no user id")
	case len(e.PrevEvents) > MaxPrevEvents:
		return bad("more than 20 prev_events")
	case len(e.AuthEvents) > MaxAuthEvents:
		return bad("more than 10 auth_events")
	case e.Depth < 0 || v.StrictJSON && e.Depth > 1<<53-1:
		return bad("depth out of range")
	}
	if v.IDFormat == IDField {
		if _, server, err := matrix.ParseEventID(e.ID); err != nil || server == "" {
			return bad("event_id is no event id")
		}
	}
	if v.RoomIDIsCreateHash && e.Type == TypeCreate {
		if e.hasRoom {
			return bad("a create event has no room_id in this room version")
		}
		return nil
	}
	_, server, err := matrix.ParseRoomID(e.RoomID)
	if err != nil || (server == "") != v.RoomIDIsCreateHash {
		return bad("room_id is no room id of this room version")
	}
	return nil
}

func tooLong(field string) error {
	return matrix.TooLarge("The event's " + field + " is longer than 255 bytes")
}

// contentHash is the hash of the whole event (server-server API,
// "Calculating the content hash for an event").
func contentHash(obj []byte, buf *[]byte) [sha256.Size]byte {
	*buf = matrix.AppendWithout((*buf)[:0], obj, "hashes", "signatures", "unsigned")
	return sha256.Sum256(*buf)
}

func (e *Event) contentHashMatches(buf *[]byte) bool {
	text, ok := stringView(matrix.Lookup(matrix.Lookup(e.JSON, "hashes"), "sha256"))
	if !ok {
		return false
	}
	want, err := matrix.DecodeBase64(text)
	if err != nil {
		return false
	}
	got := contentHash(e.JSON, buf)
	return subtle.ConstantTimeCompare(got[:], want) == 1
}

// setID computes the event id, and the room id where that is made of it.
func (e *Event) setID(buf *[]byte) {
	if e.version.IDFormat != IDField {
		*buf = appendRedacted((*buf)[:0], e.version, e.JSON, false)
		e.ID = hashID(e.version, *buf)
	}
	if !e.hasRoom && e.version.RoomIDIsCreateHash {
		e.RoomID = "!" + e.ID[1:]
	}
}

// hashID makes an event id of the bytes that are signed.
func hashID(v *Version, signed []byte) string {
	h := sha256.Sum256(signed)
	if v.IDFormat == IDHash {
		return "$" + matrix.Base64(h[:])
	}
	return "$" + matrix.Base64URL(h[:])
}
