package devices

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// allDevices stands for all devices of a user in a Delivery.
const allDevices = "*"

// Delivery is a request to send to-device messages.
type Delivery struct {
	Sender   string                                `json:"sender"`
	DeviceID string                                `json:"device_id"` // of the sender; with Sender it is the scope of TxnID
	Type     string                                `json:"type"`
	TxnID    string                                `json:"txn_id"`   // "" when a repetition shall be delivered again
	Messages map[string]map[string]json.RawMessage `json:"messages"` // content by user and device id; the device * is all devices
}

// The bounds of a delivery.
const (
	// maxContent is the largest content of a message in bytes, as of an event (Synapse's limit too).
	maxContent = 64 << 10
	// A delivery to the receivers of one shard is written in tickets of about these sizes, one after another: other
	// streams share the transaction, and the queue holds one of them at a time.
	ticketBytes    = 4 << 20
	ticketMessages = 1000
	// sharedFrom is the size from which a content that several devices get is stored once.
	sharedFrom = 1 << 10
)

// Send delivers messages to devices of this server; users of others and devices that do not exist are left
// out. A delivery whose TxnID was seen before adds only what is missing. Errors: M_BAD_JSON, M_INVALID_PARAM, M_TOO_LARGE.
func (x *Devices) Send(ctx context.Context, d Delivery) error {
	if !validName(d.Type) || len(d.TxnID) > maxName || strings.Contains(d.TxnID, "\x00") {
		return matrix.InvalidParam("The type of a message and the transaction id have at most 255 bytes, without NUL")
	}
	parts := map[int]Delivery{}
	for userID, messages := range d.Messages {
		if !x.accounts.Local(userID) {
			continue
		}
		for deviceID, content := range messages {
			if len(content) == 0 || content[0] != '{' {
				return matrix.BadJSON("The message to the device " + deviceID + " of " + userID + " must be an object")
			}
			if len(content) > maxContent {
				return matrix.TooLarge(
					fmt.Sprintf("The message to the device %s of %s has %d bytes: expected at most %d", deviceID, userID, len(content), maxContent),
				)
			}
		}
		shard := x.toDevice.Shard(userID)
		part, ok := parts[shard]
		if !ok {
			part = d
			part.Messages = map[string]map[string]json.RawMessage{}
			parts[shard] = part
		}
		part.Messages[userID] = messages
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		g.Go(func() error {
			_, err := x.deliver(ctx, firstUser(part.Messages), part)
			return err
		})
	}
	return g.Wait()
}

func firstUser[V any](m map[string]V) string {
	for userID := range m {
		return userID
	}
	return ""
}

// transaction is the record of a delivery to the receivers of one shard, as a ticket of it is to leave it.
type transaction struct {
	sender, deviceID, typ, id string

	shard int
	at    int64 // ms
	progress
	stored *progress // nil when there is no record yet
}

// progress is how far a delivery has come: all receivers up to a device, in their order, have it.
type progress struct {
	upto deviceKey
	done bool
}

func (k deviceKey) compare(other deviceKey) int {
	return cmp.Or(strings.Compare(k.userID, other.userID), strings.Compare(k.deviceID, other.deviceID))
}

const txnKey = ` WHERE sender = $1 AND device_id = $2 AND type = $3 AND txn_id = $4 AND shard = $5`

// load reads the record.
func (t *transaction) load(ctx context.Context, q db.Querier) error {
	var p progress
	err := q.QueryRow(ctx, `SELECT done, upto_user, upto_device FROM to_device_txns`+txnKey, t.sender, t.deviceID, t.typ, t.id, t.shard).
		Scan(&p.done, &p.upto.userID, &p.upto.deviceID)
	switch {
	case errors.Is(err, db.ErrNoRows):
		t.progress, t.stored = progress{}, nil
		return nil
	case err != nil:
		return err
	}
	t.progress, t.stored = p, &p
	return nil
}

// errProgressed says that the record of a delivery is not what it was when the ticket was made.
var errProgressed = errors.New("another attempt went on with the delivery")

// row is the record that the first ticket of a delivery writes. When another attempt has written one meanwhile, the ticket
// fails on to_device_txns_pkey.
func (t *transaction) row() []any {
	return []any{t.sender, t.deviceID, t.typ, t.id, t.shard, t.at, t.done, t.upto.userID, t.upto.deviceID}
}

// advance moves the record on with a further ticket, which fails with errProgressed when another attempt has done so.
func (t *transaction) advance(w *db.Batch) {
	w.Require(
		errProgressed, 1,
		`UPDATE to_device_txns SET done = $6, upto_user = $7, upto_device = $8`+txnKey+` AND NOT done AND upto_user = $9 AND upto_device = $10`,
		t.sender, t.deviceID, t.typ, t.id, t.shard, t.done, t.upto.userID, t.upto.deviceID, t.stored.upto.userID, t.stored.upto.deviceID,
	)
}

// deliverHere runs on the owner of the shard that all receivers of the part hash to.
func (x *Devices) deliverHere(ctx context.Context, key string, d Delivery) (struct{}, error) {
	t := &transaction{sender: d.Sender, deviceID: d.DeviceID, typ: d.Type, id: d.TxnID, shard: x.toDevice.Shard(key), at: x.nowMs()}
	if d.TxnID == "" {
		return struct{}{}, x.write(ctx, d, t)
	}
	// A client may repeat a request while the first is under way: both are then one.
	name := fmt.Sprintf("%d %q %q %q %q", t.shard, t.sender, t.deviceID, t.typ, t.id)
	_, err, _ := x.deliveries.Do(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		for {
			if err := t.load(ctx, x.db); err != nil || t.done {
				return nil, err
			}
			// What an attempt that was given up has in the queue may be written first.
			if err := x.write(ctx, d, t); !db.IsUniqueOn(err, "to_device_txns_pkey") && !errors.Is(err, errProgressed) {
				return nil, err
			}
		}
	})
	return struct{}{}, err
}

// write appends the messages for the devices that exist and have none of this delivery yet, a ticket after another, each
// with the record of how far it goes.
func (x *Devices) write(ctx context.Context, d Delivery, t *transaction) error {
	known, err := x.accounts.Devices(ctx, slices.Sorted(maps.Keys(d.Messages))...)
	if err != nil {
		return err
	}
	var receivers []deviceKey
	for _, device := range known {
		if k := (deviceKey{device.UserID, device.DeviceID}); d.content(k) != nil && k.compare(t.upto) > 0 {
			receivers = append(receivers, k)
		}
	}
	slices.SortFunc(receivers, deviceKey.compare) // the engines have other orders
	for len(receivers) > 0 {
		entries := x.ticket(d, receivers)
		receivers = receivers[len(entries):]
		last := entries[len(entries)-1]
		t.upto, t.done = deviceKey{last.Key, last.Value.(*message).deviceID}, len(receivers) == 0
		if d.TxnID != "" {
			record := *t
			last.Value.(*message).txn = &record
		}
		if err := x.deps.Process.Streams.Append(ctx, entries...); err != nil {
			return err
		}
		t.stored = &progress{upto: t.upto}
	}
	return nil
}

// content is what a device gets, nil for nothing.
func (d *Delivery) content(k deviceKey) json.RawMessage {
	if content, ok := d.Messages[k.userID][k.deviceID]; ok {
		return content
	}
	return d.Messages[k.userID][allDevices]
}

// ticket makes the entries for as many of the receivers, from the first on, as are written at once. A content of some
// size that several of them get is in the first of those; the others refer to it.
func (x *Devices) ticket(d Delivery, receivers []deviceKey) (entries []*stream.Entry) {
	shared := map[string]*message{}
	size := 0
	for _, k := range receivers {
		content := d.content(k)
		m := &message{deviceID: k.deviceID, sender: d.Sender, typ: d.Type, first: shared[string(content)]}
		n := len(d.Sender) + len(d.Type) + len(k.userID) + len(k.deviceID) + 100
		if m.first != nil {
			m.first.shared = true
		} else {
			m.content = string(content)
			n += len(content)
		}
		if len(entries) > 0 && (size+n > ticketBytes || len(entries) >= ticketMessages) {
			return entries
		}
		if m.first == nil && len(content) >= sharedFrom {
			shared[m.content] = m
		}
		size += n
		e := x.entry(k.userID, k.deviceID, m)
		e.Bytes = n
		entries = append(entries, e)
	}
	return entries
}

// encodeMessage writes a message as /sync gives it to the device. content is JSON.
func encodeMessage(sender, typ, content string) json.RawMessage {
	b := make([]byte, 0, len(sender)+len(typ)+len(content)+48)
	b = append(append(b, `{"content":`...), content...)
	b = matrix.AppendString(append(b, `,"sender":`...), sender)
	b = matrix.AppendString(append(b, `,"type":`...), typ)
	return append(b, '}')
}
