package devices

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

type deviceKey struct{ userID, deviceID string }

// mailboxes remember, for recently used devices, between which positions messages wait and how many one-time keys the device has;
// never a message. They follow the stream "to_device", so that an idle device costs no database statement.
//
// It is not otter: mailboxes and their sizes change in place under mu with each row of the stream, and the bound in bytes must hold
// when mu is released.
type mailboxes struct {
	mu    sync.Mutex
	max   int
	boxes map[deviceKey]*mailbox
	bytes int // estimated memory of all; at most max * mailboxBytes
}

const mailboxBytes = 1 << 10

// mailbox is what is known of one device. It is guarded by mailboxes.mu.
type mailbox struct {
	known       bool
	first, last int64 // all messages that wait are at first <= pos <= last; 0 and 0 when there are none

	counts     *KeyCounts // nil when not known
	keyChanges uint64     // number of key changes received, so that counts read before one are not kept
}

// KeyCounts are the key counts of a device, as in /sync.
type KeyCounts struct {
	OneTime  map[string]int `json:"one_time"` // by algorithm; always with signed_curve25519; not to be changed
	Fallback []string       `json:"fallback"` // algorithms with a fallback key that was not given out
}

func newMailboxes(size int) *mailboxes {
	return &mailboxes{max: size, boxes: map[deviceKey]*mailbox{}}
}

// onRows receives rows of the stream and updates the remembered devices.
func (m *mailboxes) onRows(rows []stream.Row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range rows {
		userID, deviceID, isMessage := DecodeToDevice(row)
		k := deviceKey{userID, deviceID}
		b := m.boxes[k]
		switch {
		case b == nil:
		case isMessage:
			b.extend(row.Pos, row.Pos)
		default:
			m.setCounts(k, b, nil)
			b.keyChanges++
		}
	}
}

// extend adds positions of waiting messages; 0 and 0 is none.
func (b *mailbox) extend(first, last int64) {
	if last == 0 {
		return
	}
	if b.first == 0 || first < b.first {
		b.first = first
	}
	b.last = max(b.last, last)
}

// removeUpto records that no message up to pos waits any more.
func (b *mailbox) removeUpto(pos int64) {
	if b.last <= pos {
		b.first, b.last = 0, 0
	} else {
		b.first = max(b.first, pos+1)
	}
}

// getOrAdd returns the mailbox of a device. It evicts another one when there are too many. The caller holds mu.
func (m *mailboxes) getOrAdd(k deviceKey) *mailbox {
	b := m.boxes[k]
	if b == nil {
		b = &mailbox{}
		m.boxes[k] = b
		m.bytes += k.bytes()
		m.evict(k)
	}
	return b
}

func (k deviceKey) bytes() int { return 200 + len(k.userID) + len(k.deviceID) }

// setCounts remembers the key counts of a device, nil for unknown. The caller holds mu.
func (m *mailboxes) setCounts(k deviceKey, b *mailbox, counts *KeyCounts) {
	if m.boxes[k] == b { // else it was evicted meanwhile
		m.bytes += counts.bytes() - b.counts.bytes()
		b.counts = counts
		m.evict(k)
	}
}

// evict removes mailboxes, except one, until the rest fits into the limits.
func (m *mailboxes) evict(but deviceKey) {
	for other, b := range m.boxes {
		if len(m.boxes) <= m.max && m.bytes <= m.max*mailboxBytes {
			return
		}
		if other != but {
			delete(m.boxes, other)
			m.bytes -= other.bytes() + b.counts.bytes()
		}
	}
}

// bytes estimates the memory that the counts take, since clients choose the names of algorithms.
func (c *KeyCounts) bytes() (n int) {
	if c == nil {
		return 0
	}
	n = 100
	for algorithm := range c.OneTime {
		n += len(algorithm) + 60
	}
	for _, algorithm := range c.Fallback {
		n += len(algorithm) + 16
	}
	return n
}

// pending returns between which positions messages may wait, from memory or else from the database.
func (x *Devices) pending(ctx context.Context, userID, deviceID string) (first, last int64, err error) {
	var b *mailbox
	if x.toDeviceRows.IsActive() {
		x.mailboxes.mu.Lock()
		b = x.mailboxes.getOrAdd(deviceKey{userID, deviceID})
		known, first, last := b.known, b.first, b.last
		x.mailboxes.mu.Unlock()
		if known {
			return first, last, nil
		}
	}
	// The mailbox follows the stream from here on, so it misses nothing after this statement.
	err = x.db.QueryRow(ctx, `SELECT COALESCE(MIN(pos), 0), COALESCE(MAX(pos), 0) FROM to_device WHERE user_id = $1
		AND device_id = $2`, userID, deviceID).
		Scan(&first, &last)
	if err != nil || b == nil {
		return first, last, err
	}
	x.mailboxes.mu.Lock()
	defer x.mailboxes.mu.Unlock()
	b.extend(first, last)
	b.known = true
	return b.first, b.last, nil
}

// maxMessageBytes is how many bytes of messages are read at once. The last message may exceed it.
const maxMessageBytes = 1 << 20

// MessageRange selects messages of a device by position: After < pos <= Upto.
type MessageRange struct {
	After, Upto int64
	Limit       int // messages at most
}

// ToDevice returns the messages for a device in a range, each as {"content","sender","type"}. last is the position up to which
// the device has them: r.Upto, or the position of the last message when r.Limit or maxMessageBytes cut some off. Without a
// database statement when this process knows that no message waits.
func (x *Devices) ToDevice(
	ctx context.Context, userID, deviceID string, r MessageRange,
) (messages []json.RawMessage, last int64, err error) {
	after, upto, limit := r.After, r.Upto, r.Limit
	first, newest, err := x.pending(ctx, userID, deviceID)
	if err != nil {
		return nil, after, err
	}
	if first == 0 || first > upto || newest <= after || after >= upto || limit <= 0 {
		return nil, max(after, upto), nil
	}
	rows, err := x.db.Query(
		ctx,
		`SELECT m.pos, m.sender, m.type, COALESCE(c.content, m.content) FROM to_device m
		LEFT JOIN to_device_contents c ON c.shard = m.shard AND c.pos = m.content_pos
		WHERE m.user_id = $1 AND m.device_id = $2 AND m.pos > $3 AND m.pos <= $4 ORDER BY m.pos LIMIT $5`,
		userID,
		deviceID,
		after,
		upto,
		limit+1,
	)
	if err != nil {
		return nil, after, err
	}
	defer rows.Close()
	last = upto
	size := 0
	for pos := after; rows.Next(); {
		if len(messages) == limit || size >= maxMessageBytes {
			last = pos
			break
		}
		var sender, typ, content string
		if err := rows.Scan(&pos, &sender, &typ, &content); err != nil {
			return nil, after, err
		}
		messages = append(messages, encodeMessage(sender, typ, content))
		size += len(messages[len(messages)-1])
	}
	return messages, last, rows.Err()
}

// DeleteToDevice deletes the messages up to a position, which the device has received. It makes a database statement only if a
// message may wait there.
func (x *Devices) DeleteToDevice(ctx context.Context, userID, deviceID string, upto int64) error {
	first, _, err := x.pending(ctx, userID, deviceID)
	if err != nil || first == 0 || first > upto {
		return err
	}
	if _, err := x.db.Exec(ctx, `DELETE FROM to_device WHERE user_id = $1 AND device_id = $2
		AND pos <= $3`, userID, deviceID, upto); err != nil {
		return err
	}
	if x.toDeviceRows.IsActive() {
		x.mailboxes.mu.Lock()
		defer x.mailboxes.mu.Unlock()
		x.mailboxes.getOrAdd(deviceKey{userID, deviceID}).removeUpto(upto)
	}
	return nil
}

// OneTimeKeyCounts returns the number of one-time keys of a device by algorithm, always with signed_curve25519, and the algorithms
// whose fallback key was not given out, sorted. It makes a database statement only after a change. The results are shared and must
// not be changed.
func (x *Devices) OneTimeKeyCounts(
	ctx context.Context,
	userID, deviceID string,
) (counts map[string]int, unusedFallback []string, err error) {
	if !x.toDeviceRows.IsActive() {
		known, err := x.loadCounts(ctx, userID, deviceID)
		if err != nil {
			return nil, nil, err
		}
		return known.OneTime, known.Fallback, nil
	}
	x.mailboxes.mu.Lock()
	k := deviceKey{userID, deviceID}
	b := x.mailboxes.getOrAdd(k)
	known, changesBefore := b.counts, b.keyChanges
	x.mailboxes.mu.Unlock()
	if known == nil {
		if known, err = x.loadCounts(ctx, userID, deviceID); err != nil {
			return nil, nil, err
		}
		x.mailboxes.mu.Lock()
		if b.keyChanges == changesBefore {
			x.mailboxes.setCounts(k, b, known)
		}
		x.mailboxes.mu.Unlock()
	}
	return known.OneTime, known.Fallback, nil
}

const mainAlgorithm = "signed_curve25519"

func (x *Devices) loadCounts(ctx context.Context, userID, deviceID string) (*KeyCounts, error) {
	// A client without keys must get a 0: otherwise it does not upload any.
	out := &KeyCounts{OneTime: map[string]int{mainAlgorithm: 0}, Fallback: []string{}}
	err := db.Each(func(row db.Row) error {
		var algorithm string
		var n int
		if err := row.Scan(&algorithm, &n); err != nil {
			return err
		}
		if n < 0 {
			out.Fallback = append(out.Fallback, algorithm)
		} else {
			out.OneTime[algorithm] = n
		}
		return nil
	})(x.db.Query(ctx, `SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm
		UNION ALL SELECT algorithm, -1 FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND NOT used`, userID, deviceID))
	slices.Sort(out.Fallback)
	return out, err
}
