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
	TxnID    string                                `json:"txn_id"`   // "" if a repetition is a new delivery
	Messages map[string]map[string]json.RawMessage `json:"messages"` // content by user and device id; the device * is all devices
}

// The bounds of a delivery.
const (
	// maxContent is the largest content of a message in bytes, as for an event (and in Synapse).
	maxContent = 64 << 10
	// A delivery to the receivers of one shard is appended in batches of at most about these sizes: other streams share the
	// transaction, and the queue holds one batch at a time.
	batchBytes    = 4 << 20
	batchMessages = 1000
	// sharedFrom is the size in bytes from which a content for several devices is stored only once.
	sharedFrom = 1 << 10
)

// Send delivers messages to devices of this server. Users of other servers and unknown devices are left out. A repeated delivery
// with the same TxnID adds only what is missing. Errors: M_BAD_JSON, M_INVALID_PARAM, M_TOO_LARGE.
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
			_, err := x.deliver(ctx, anyUser(part.Messages), part)
			return err
		})
	}
	return g.Wait()
}

func anyUser[V any](m map[string]V) string {
	for userID := range m {
		return userID
	}
	return ""
}

// transaction is the record of a delivery to the receivers of one shard, as the current batch will store it.
type transaction struct {
	sender, deviceID, typ, id string

	shard int
	at    int64 // ms
	progress
	stored *progress // as stored; nil when there is no record yet
}

// progress is how far a delivery is done: all receivers up to a device, in their order, have it.
type progress struct {
	upto deviceKey
	done bool
}

func (k deviceKey) compare(other deviceKey) int {
	return cmp.Or(strings.Compare(k.userID, other.userID), strings.Compare(k.deviceID, other.deviceID))
}

const txnKey = ` WHERE sender = $1 AND device_id = $2 AND type = $3 AND txn_id = $4 AND shard = $5`

// load reads the record from the database.
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

// errProgressed says that the record of a delivery changed since the batch was made.
var errProgressed = errors.New("another attempt went on with the delivery")

// row is the record that the first batch of a delivery inserts. If another attempt has inserted one meanwhile, the batch fails on
// to_device_txns_pkey.
func (t *transaction) row() []any {
	return []any{t.sender, t.deviceID, t.typ, t.id, t.shard, t.at, t.done, t.upto.userID, t.upto.deviceID}
}

// advance updates the record with a further batch, which fails with errProgressed if another attempt has done so.
func (t *transaction) advance(w *db.Batch) {
	w.Require(
		errProgressed, 1,
		`UPDATE to_device_txns SET done = $6, upto_user = $7, upto_device = $8`+txnKey+` AND NOT done AND upto_user = $9 AND upto_device = $10`,
		t.sender, t.deviceID, t.typ, t.id, t.shard, t.done, t.upto.userID, t.upto.deviceID, t.stored.upto.userID, t.stored.upto.deviceID,
	)
}

// deliverAtOwner runs on the owner of the shard that all receivers of the part belong to.
func (x *Devices) deliverAtOwner(ctx context.Context, key string, d Delivery) (struct{}, error) {
	t := &transaction{sender: d.Sender, deviceID: d.DeviceID, typ: d.Type, id: d.TxnID, shard: x.toDevice.Shard(key), at: x.nowMs()}
	if d.TxnID == "" {
		return struct{}{}, x.appendMessages(ctx, d, t)
	}
	// A client may repeat a request while the first one still runs: then both run once.
	name := fmt.Sprintf("%d %q %q %q %q", t.shard, t.sender, t.deviceID, t.typ, t.id)
	_, err, _ := x.deliveries.Do(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		for {
			if err := t.load(ctx, x.db); err != nil || t.done {
				return nil, err
			}
			// Entries of an abandoned attempt may still be in the queue and be stored first: then it loads the record again.
			if err := x.appendMessages(ctx, d, t); !db.IsUniqueOn(err, "to_device_txns_pkey") && !errors.Is(err, errProgressed) {
				return nil, err
			}
		}
	})
	return struct{}{}, err
}

// appendMessages appends the messages for existing devices that did not get this delivery yet, batch by batch. Each batch stores the
// progress.
func (x *Devices) appendMessages(ctx context.Context, d Delivery, t *transaction) error {
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
	slices.SortFunc(receivers, deviceKey.compare) // the order of SQLite and PostgreSQL differs
	for len(receivers) > 0 {
		entries := x.nextBatch(d, receivers)
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

// content returns what a device gets, nil for nothing.
func (d *Delivery) content(k deviceKey) json.RawMessage {
	if content, ok := d.Messages[k.userID][k.deviceID]; ok {
		return content
	}
	return d.Messages[k.userID][allDevices]
}

// nextBatch makes the entries of one batch, for as many of the receivers as fit, from the first one on. A large content for several
// devices is stored with the first of them; the others refer to it.
func (x *Devices) nextBatch(d Delivery, receivers []deviceKey) (entries []*stream.Entry) {
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
		if len(entries) > 0 && (size+n > batchBytes || len(entries) >= batchMessages) {
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

// encodeMessage encodes a message as /sync returns it. content is JSON.
func encodeMessage(sender, typ, content string) json.RawMessage {
	b := make([]byte, 0, len(sender)+len(typ)+len(content)+48)
	b = append(append(b, `{"content":`...), content...)
	b = matrix.AppendString(append(b, `,"sender":`...), sender)
	b = matrix.AppendString(append(b, `,"type":`...), typ)
	return append(b, '}')
}
