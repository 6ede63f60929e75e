package devices

import (
	"context"
	"encoding/json"
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

// transaction is the record of a delivery to the receivers of one shard.
type transaction struct {
	sender, deviceID, typ, id string
	at                        int64 // ms
}

// Send delivers messages to devices of this server; users of others and devices that do not exist are left
// out. A delivery whose TxnID was seen before adds only what is missing. Errors: M_BAD_JSON, M_INVALID_PARAM.
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

// deliverHere runs on the owner of the shard that all receivers of the part hash to.
func (x *Devices) deliverHere(ctx context.Context, key string, d Delivery) (struct{}, error) {
	if d.TxnID == "" {
		return struct{}{}, x.write(ctx, d, nil)
	}
	t := &transaction{d.Sender, d.DeviceID, d.Type, d.TxnID, x.nowMs()}
	shard := x.toDevice.Shard(key)
	// A client may repeat a request while the first is under way: both are then one.
	name := fmt.Sprintf("%d %q %q %q %q", shard, t.sender, t.deviceID, t.typ, t.id)
	_, err, _ := x.flights.Do(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		var done bool
		err := x.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM to_device_txns WHERE sender = $1 AND device_id = $2 AND type = $3 AND txn_id = $4 AND shard = $5)`,
			t.sender, t.deviceID, t.typ, t.id, shard).Scan(&done)
		if err != nil || done {
			return nil, err
		}
		if err := x.write(ctx, d, t); err != nil && !db.IsUnique(err) {
			return nil, err
		}
		return nil, nil
	})
	return struct{}{}, err
}

// write appends the messages for devices that exist.
func (x *Devices) write(ctx context.Context, d Delivery, t *transaction) error {
	users := slices.Sorted(maps.Keys(d.Messages))
	known, err := x.accounts.Devices(ctx, users...)
	if err != nil {
		return err
	}
	var entries []*stream.Entry
	for _, device := range known {
		content, ok := d.Messages[device.UserID][device.DeviceID]
		if !ok {
			content, ok = d.Messages[device.UserID][allDevices]
		}
		if ok {
			entries = append(entries, x.entry(device.UserID, device.DeviceID, &message{device.DeviceID, d.Sender, d.Type, string(content), nil}))
		}
	}
	if len(entries) == 0 {
		return nil
	}
	entries[0].Value.(*message).txn = t
	return x.deps.Process.Streams.Append(ctx, entries...)
}

// encodeMessage writes a message as /sync gives it to the device. content is JSON.
func encodeMessage(sender, typ, content string) json.RawMessage {
	b := make([]byte, 0, len(sender)+len(typ)+len(content)+48)
	b = append(append(b, `{"content":`...), content...)
	b = matrix.AppendString(append(b, `,"sender":`...), sender)
	b = matrix.AppendString(append(b, `,"type":`...), typ)
	return append(b, '}')
}

// deviceGone drops all that waits for a device and its one-time keys.
type deviceGone struct {
	DeviceIDs []string `json:"devices"`
	id        string
}

func (g *deviceGone) device() string { return g.id }

func (g *deviceGone) apply(ctx context.Context, tx *db.Tx, userID string) error {
	for _, query := range []string{
		`DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device_txns WHERE sender = $1 AND device_id = $2`,
	} {
		if _, err := tx.Exec(ctx, query, userID, g.id); err != nil {
			return err
		}
	}
	return nil
}

// dropHere runs on the owner of the user's shard.
func (x *Devices) dropHere(ctx context.Context, userID string, g deviceGone) (struct{}, error) {
	entries := make([]*stream.Entry, len(g.DeviceIDs))
	for i, id := range g.DeviceIDs {
		entries[i] = x.entry(userID, id, &deviceGone{id: id})
	}
	return struct{}{}, x.deps.Process.Streams.Append(ctx, entries...)
}

// DevicesRemoved implements accounts.DeviceListener: it drops the keys and messages of the devices and
// records that the user's device list changed.
func (x *Devices) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	if _, err := x.drop(ctx, userID, deviceGone{DeviceIDs: deviceIDs}); err != nil {
		return err
	}
	_, err := x.change(ctx, userID, listChange{Removed: deviceIDs})
	return err
}

// UserDeactivated implements accounts.UserListener: it drops all that is kept for the user.
func (x *Devices) UserDeactivated(ctx context.Context, userID string, _ bool) error {
	left, err := x.keptDevices(ctx, []string{userID})
	if err != nil {
		return err
	}
	if err := x.DevicesRemoved(ctx, userID, left[userID]); err != nil {
		return err
	}
	_, err = x.change(ctx, userID, listChange{Gone: true})
	return err
}

const txnLife = 24 * time.Hour

// housekeeping forgets old transactions and drops what was written for a device while it was removed. One
// process of the fleet runs it.
func (x *Devices) housekeeping(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := x.db.Exec(ctx, `DELETE FROM to_device_txns WHERE created_ms < $1`, x.nowMs()-txnLife.Milliseconds()); err != nil {
			return err
		}
		if err := x.sweep(ctx); err != nil {
			return err
		}
	}
}

// sweep drops what is kept for devices that do not exist.
func (x *Devices) sweep(ctx context.Context) error {
	const page = 500
	for after := ""; ; {
		users, err := db.Texts(x.db.Query(ctx, `SELECT user_id FROM (SELECT user_id FROM device_keys WHERE user_id > $1 UNION SELECT user_id FROM one_time_keys WHERE user_id > $1
			UNION SELECT user_id FROM to_device WHERE user_id > $1) AS kept ORDER BY user_id LIMIT $2`, after, page))
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1]
		kept, err := x.keptDevices(ctx, users)
		if err != nil {
			return err
		}
		// Asked for after what is kept, so that a device made meanwhile is not taken for gone.
		known, err := x.accounts.Devices(ctx, users...)
		if err != nil {
			return err
		}
		for userID, devices := range kept {
			gone := slices.DeleteFunc(devices, func(id string) bool {
				return hasDevice(known, userID, id)
			})
			if err := x.DevicesRemoved(ctx, userID, gone); err != nil {
				return err
			}
		}
		if len(users) < page {
			return nil
		}
	}
}

// keptDevices gives the devices of the users for which anything is kept.
func (x *Devices) keptDevices(ctx context.Context, users []string) (map[string][]string, error) {
	return db.Groups[string, string](x.db.Query(ctx, `SELECT user_id, device_id FROM device_keys WHERE user_id = ANY($1) UNION SELECT user_id, device_id FROM one_time_keys WHERE user_id = ANY($1)
		UNION SELECT user_id, device_id FROM to_device WHERE user_id = ANY($1)`, users))
}
