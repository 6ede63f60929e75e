package event

import (
	"strconv"

	"lyceum/matrix"
)

// ClientJSON appends e in the format of the client-server API. unsigned is a
// JSON object or empty. Without withRoomID it is the form /sync uses. A
// redaction shows redacts at the top and in the content, whatever the room
// version, so that clients of all ages find it (room version 11, "Moving the
// redacts property").
func ClientJSON(dst []byte, e *Event, unsigned []byte, withRoomID bool) []byte {
	dst = append(dst, `{"content":`...)
	if e.Redacts != "" && e.Type == TypeRedaction && !e.version.RedactsInContent && matrix.Lookup(e.Content, "redacts") == nil {
		dst = append(dst, `{"redacts":`...)
		dst = matrix.AppendString(dst, e.Redacts)
		if len(e.Content) > 2 {
			dst = append(dst, ',')
		}
		dst = append(dst, e.Content[1:]...)
	} else {
		dst = append(dst, e.Content...)
	}
	dst = append(dst, `,"event_id":`...)
	dst = matrix.AppendString(dst, e.ID)
	dst = append(dst, `,"origin_server_ts":`...)
	dst = strconv.AppendInt(dst, e.OriginServerTS, 10)
	if e.Redacts != "" && e.Type == TypeRedaction {
		dst = append(dst, `,"redacts":`...)
		dst = matrix.AppendString(dst, e.Redacts)
	}
	if withRoomID {
		dst = append(dst, `,"room_id":`...)
		dst = matrix.AppendString(dst, e.RoomID)
	}
	dst = append(dst, `,"sender":`...)
	dst = matrix.AppendString(dst, e.Sender)
	if e.StateKey != nil {
		dst = append(dst, `,"state_key":`...)
		dst = matrix.AppendString(dst, *e.StateKey)
	}
	dst = append(dst, `,"type":`...)
	dst = matrix.AppendString(dst, e.Type)
	if len(unsigned) > 2 {
		dst = append(dst, `,"unsigned":`...)
		dst = append(dst, unsigned...)
	}
	return append(dst, '}')
}

// StrippedJSON appends e in the stripped form of invites and knocks: content,
// sender, state_key and type (client-server API, "Stripped state"). content is
// that of e or a part of it.
func StrippedJSON(dst []byte, e *Event, content []byte) []byte {
	return appendStripped(dst, e, content, false)
}

// StrippedJSONWithTime is StrippedJSON with the event's id and time: servers give the members and m.room.create so, and clients sort
// invites by it.
func StrippedJSONWithTime(dst []byte, e *Event, content []byte) []byte {
	return appendStripped(dst, e, content, true)
}

func appendStripped(dst []byte, e *Event, content []byte, dated bool) []byte {
	dst = append(dst, `{"content":`...)
	dst = append(dst, content...)
	if dated {
		dst = append(dst, `,"event_id":`...)
		dst = matrix.AppendString(dst, e.ID)
		dst = append(dst, `,"origin_server_ts":`...)
		dst = strconv.AppendInt(dst, e.OriginServerTS, 10)
	}
	dst = append(dst, `,"sender":`...)
	dst = matrix.AppendString(dst, e.Sender)
	dst = append(dst, `,"state_key":`...)
	dst = matrix.AppendString(dst, e.stateKey)
	dst = append(dst, `,"type":`...)
	dst = matrix.AppendString(dst, e.Type)
	return append(dst, '}')
}
