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

// DecodeToDevice decodes a row of the stream "to_device": the device it is about, and whether it is a message for the device.
// Otherwise the number of its one-time or fallback keys changed.
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

// message is a to-device message that is not stored yet.
type message struct {
	deviceID, sender, typ, content string

	first  *message     // the first message of the same batch with the same content; nil for the first itself
	shared bool         // other messages refer to this content
	pos    int64        // set when the message is stored
	txn    *transaction // in the last message of a batch, when the delivery has a transaction id
}

// keyOperation is done inside the transaction of the stream. It may run again in another transaction, so it sets its result anew.
// changed says that the device must be told its new key counts.
type keyOperation interface {
	device() string
	apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error)
}
