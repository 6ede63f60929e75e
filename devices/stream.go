package devices

import (
	"context"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// The first letter of a row of "to_device".
const (
	rowMessage = 'm'
	rowKeys    = 'k'
)

// DecodeToDevice reads a row of the stream "to_device": whose device it is about, and whether it is a
// message for the device (else the number of its one-time or fallback keys changed).
func DecodeToDevice(row stream.Row) (userID, deviceID string, message bool) {
	if len(row.Data) == 0 {
		return row.Key, "", false
	}
	return row.Key, string(row.Data[1:]), row.Data[0] == rowMessage
}

func (x *Devices) entry(userID, deviceID string, value any) *stream.Entry {
	kind := byte(rowKeys)
	if _, ok := value.(*message); ok {
		kind = rowMessage
	}
	data := append([]byte{kind}, deviceID...)
	return &stream.Entry{Stream: x.toDevice, Row: stream.Row{Shard: x.toDevice.Shard(userID), Key: userID, Data: data, Value: value}}
}

// message is a to-device message on its way into the database.
type message struct {
	deviceID, sender, typ, content string

	first  *message     // of the same ticket, with the same content; nil for none before
	shared bool         // others have this one as their first
	pos    int64        // set when the message is written
	txn    *transaction // in the last message of a ticket, when the delivery has a transaction id
}

// keyOperation is done inside the transaction of the stream. It may be done again in another transaction, so it
// sets its result anew. changed says that the numbers of keys are to be told to the device.
type keyOperation interface {
	device() string
	apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error)
}
