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

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role"
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

// deviceCleanup drops all that waits for a device, its one-time keys, and which it has uploaded.
type deviceCleanup struct {
	DeviceIDs []string     `json:"devices"`
	Lease     *lease.Lease `json:"under,omitempty"`   // drop nothing when it was taken over
	Removed   bool         `json:"removed,omitempty"` // drop nothing when the device is there: it was made since
	Token     int64        `json:"token,omitempty"`   // drop nothing when the access token of this id is gone; 0 is none
	id        string
	leaseLost bool  // Under was taken over
	refused   error // Token is gone
}

type dropResult struct {
	LeaseLost bool `json:"lost,omitempty"`    // Under was taken over
	Refused   bool `json:"refused,omitempty"` // Token is gone
}

func (g *deviceCleanup) device() string { return g.id }

func (g *deviceCleanup) apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error) {
	if g.leaseLost, err = leaseLost(ctx, tx, g.Lease); err != nil || g.leaseLost {
		return false, err
	}
	if g.refused, err = refuseWithoutToken(ctx, tx, g.Token); err != nil || g.refused != nil {
		return false, err
	}
	if g.Removed {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT `+accounts.DeviceExists, userID, g.id).Scan(&there); err != nil || there {
			return false, err
		}
	}
	for _, query := range []string{
		`DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM claimed_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device_txns WHERE sender = $1 AND device_id = $2`,
	} {
		if _, err := tx.Exec(ctx, query, userID, g.id); err != nil {
			return false, err
		}
	}
	return true, nil
}

// leaseLost tells that somebody has taken over the lease that something is done under; nil is none.
func leaseLost(ctx context.Context, tx *db.Tx, under *lease.Lease) (bool, error) {
	if under == nil {
		return false, nil
	}
	err := lease.Hold(ctx, tx, *under)
	if errors.Is(err, lease.ErrLost) { // not an error here, where it would be that of the shard
		return true, nil
	}
	return false, err
}

// dropHere runs on the owner of the user's shard.
func (x *Devices) dropHere(ctx context.Context, userID string, g deviceCleanup) (res dropResult, err error) {
	entries := make([]*stream.Entry, len(g.DeviceIDs))
	for i, id := range g.DeviceIDs {
		entries[i] = x.entry(userID, id, &deviceCleanup{Lease: g.Lease, Removed: g.Removed, Token: g.Token, id: id})
	}
	err = x.deps.Process.Streams.Append(ctx, entries...)
	for _, e := range entries {
		done := e.Value.(*deviceCleanup)
		res.LeaseLost, res.Refused = res.LeaseLost || done.leaseLost, res.Refused || done.refused != nil
	}
	return res, err
}

// DeviceAdded implements accounts.DeviceListener: it records that the user's device list changed, unless the device has
// keys, which said so.
func (x *Devices) DeviceAdded(ctx context.Context, userID, deviceID string) error {
	var known bool
	err := x.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM device_keys WHERE user_id = $1 AND device_id = $2)`, userID, deviceID).Scan(&known)
	if err != nil || known {
		return err
	}
	_, err = x.change(ctx, userID, listChange{})
	return err
}

// DevicesRemoved implements accounts.DeviceListener: it drops the keys and messages of the devices and
// records that the user's device list changed.
func (x *Devices) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	return x.removeDevices(ctx, nil, userID, deviceIDs)
}

// removeDevices is DevicesRemoved, which fails when the lease was taken over; nil is none.
func (x *Devices) removeDevices(ctx context.Context, under *lease.Lease, userID string, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	if res, err := x.drop(ctx, userID, deviceCleanup{DeviceIDs: deviceIDs, Lease: under, Removed: true}); err != nil || res.LeaseLost {
		return cmp.Or(err, lease.ErrLost)
	}
	res, err := x.change(ctx, userID, listChange{Removed: deviceIDs, Lease: under})
	if err == nil && res.LeaseLost {
		err = lease.ErrLost
	}
	return err
}

// UserDeactivated implements accounts.UserListener: it drops all that is kept for the user.
func (x *Devices) UserDeactivated(ctx context.Context, userID string, _ bool) error {
	left, err := x.devicesWithData(ctx, []string{userID})
	if err != nil {
		return err
	}
	if err := x.DevicesRemoved(ctx, userID, left[userID]); err != nil {
		return err
	}
	_, err = x.change(ctx, userID, listChange{UserGone: true})
	return err
}

const txnLife = 24 * time.Hour

// housekeeping forgets old transactions and claims, and drops what was written for a device while it was removed. One
// process of the fleet runs it.
func (x *Devices) housekeeping(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// What fails keeps nothing else from being forgotten.
		txns := job.Exec(ctx, `DELETE FROM to_device_txns WHERE created_ms < $1`, x.nowMs()-txnLife.Milliseconds())
		claims := job.Exec(ctx, `DELETE FROM claimed_keys WHERE created_ms < $1`, x.nowMs()-claimLife.Milliseconds())
		if err := errors.Join(txns, claims, x.dropForRemovedDevices(ctx, job), x.dropContents(ctx, job)); err != nil {
			return err
		}
	}
}

// dropContents drops the contents to which no message refers any more. Those who refer to one are written in its transaction.
func (x *Devices) dropContents(ctx context.Context, job *role.Job) error {
	return job.Exec(ctx, `DELETE FROM to_device_contents WHERE NOT EXISTS (SELECT 1 FROM to_device m
		WHERE m.shard = to_device_contents.shard AND m.content_pos = to_device_contents.pos AND m.content_pos <> 0)`)
}

// dropForRemovedDevices drops what is kept for devices that do not exist. The owners of the users' shards compare the job's epoch: who
// was paused after it looked may take a device that was made since for gone.
func (x *Devices) dropForRemovedDevices(ctx context.Context, job *role.Job) error {
	under := job.Lease()
	const page = 500
	for after := ""; ; {
		users, err := db.Texts(
			x.db.Query(
				ctx,
				`SELECT user_id FROM (SELECT user_id FROM device_keys WHERE user_id > $1 UNION SELECT user_id FROM one_time_keys WHERE user_id > $1
			UNION SELECT user_id FROM one_time_key_hashes WHERE user_id > $1 UNION SELECT user_id FROM fallback_keys WHERE user_id > $1
			UNION SELECT user_id FROM to_device WHERE user_id > $1) AS kept ORDER BY user_id LIMIT $2`,
				after,
				page,
			),
		)
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1]
		kept, err := x.devicesWithData(ctx, users)
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
			err := x.removeDevices(ctx, &under, userID, gone)
			if errors.Is(err, lease.ErrLost) || ctx.Err() != nil {
				return err
			}
			if err != nil { // others do not wait for it
				x.log.Warn("what is kept for removed devices is not dropped yet, it is tried again", "user", userID, "error", err)
			}
		}
		if len(users) < page {
			return nil
		}
	}
}

// devicesWithData gives the devices of the users for which anything is kept.
func (x *Devices) devicesWithData(ctx context.Context, users []string) (map[string][]string, error) {
	return db.Groups[string, string](
		x.db.Query(
			ctx,
			`SELECT user_id, device_id FROM device_keys WHERE user_id = ANY($1) UNION SELECT user_id, device_id FROM one_time_keys
			WHERE user_id = ANY($1)
		UNION SELECT user_id, device_id FROM one_time_key_hashes WHERE user_id = ANY($1)
		UNION SELECT user_id, device_id FROM fallback_keys WHERE user_id = ANY($1) UNION SELECT user_id, device_id FROM to_device
			WHERE user_id = ANY($1)`,
			users,
		),
	)
}
