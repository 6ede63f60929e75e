package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// devicesOf makes devices of a user, without tokens, and gives their ids.
func (n *node) devicesOf(l *login, count int) []string {
	n.t.Helper()
	ids := make([]string, count)
	for i := range ids {
		ids[i] = fmt.Sprintf("DEV%04d", i)
		if _, err := n.accounts.CreateDevice(n.t.Context(), l.userID, ids[i], ""); err != nil {
			n.t.Fatal(err)
		}
	}
	return ids
}

func (n *node) number(query string, args ...any) (out int) {
	n.t.Helper()
	if err := n.db.QueryRow(n.t.Context(), query, args...).Scan(&out); err != nil {
		n.t.Fatal(err)
	}
	return out
}

func (n *node) exec(query string, args ...any) {
	n.t.Helper()
	if _, err := n.db.Exec(n.t.Context(), query, args...); err != nil {
		n.t.Fatal(err)
	}
}

// next is the position of the next message for a user.
func (n *node) next(userID string) (shard int, pos int64) {
	n.t.Helper()
	n.barrier()
	shard = n.toDevice.Shard(userID)
	return shard, n.toDevice.Position(shard) + 1
}

func large(n, size int) obj { return obj{"n": n, "x": strings.Repeat("x", size)} }

// TestContentsAreStoredOnce: what many devices get takes the space of one.
func TestContentsAreStoredOnce(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		ids := n.devicesOf(bob, 40)
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": large(1, 50_000), ids[3]: large(2, 50_000)}}}).want(200)
		alice.do("PUT /sendToDevice/m.x/2", obj{"messages": obj{bob.userID: obj{"*": large(3, 100)}}}).want(200)
		job, _ := roletest.Job(t, n.p)
		const stored = `SELECT (SELECT COALESCE(SUM(LENGTH(content)), 0) FROM to_device) + (SELECT COALESCE(SUM(LENGTH(content)), 0)
			FROM to_device_contents)`
		if got := n.number(stored); got > 110_000 {
			t.Errorf("%d bytes are stored", got)
		}
		for i, id := range ids {
			of := *bob
			of.deviceID = id
			got, last := of.inbox(0)
			want := 1
			if i == 3 {
				want = 2
			}
			if len(got) != 2 || !strings.HasPrefix(got[0], fmt.Sprintf(`{"content":{"n":%d,`, want)) ||
				!strings.HasPrefix(got[1], `{"content":{"n":3,`) ||
				len(got[0]) < 50_000 {
				t.Fatalf("device %s got %d messages, the first is %.40s", id, len(got), got)
			}
			if err := n.dropContents(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			if err := n.DeleteToDevice(t.Context(), of.userID, id, last); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.dropContents(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if got := n.number(`SELECT COUNT(*) FROM to_device_contents`); got != 1 { // for the device that bob logged in with
			t.Errorf("%d contents are left", got)
		}
		if got, _ := bob.inbox(0); len(got) != 2 || len(got[0]) < 50_000 {
			t.Errorf("the last device got %.60s", got)
		}
	})
}

// TestLargeContentIsRefused: before anything is stored.
func TestLargeContentIsRefused(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": large(1, maxContent)}, alice.userID: obj{"*": obj{}}}}).
			want(413, "M_TOO_LARGE")
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": large(1, maxContent-20)}}}).want(200)
		if got := n.number(`SELECT COUNT(*) FROM to_device`); got != 1 {
			t.Errorf("%d messages are stored", got)
		}
	})
}

// TestOnlyTheTransactionSaysDeliveredBefore: another unique key that is taken is an error, as nothing is stored.
func TestOnlyTheTransactionSaysDeliveredBefore(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		n.devicesOf(bob, 2)
		shard, pos := n.next(bob.userID)
		n.exec(`INSERT INTO to_device_contents (shard, pos, content) VALUES ($1, $2, '{}')`, shard, pos)
		send := func() answer {
			return alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": large(1, 2000)}}})
		}
		if got := send(); got.status != 500 {
			t.Errorf("nothing is stored, and the answer is %d %s", got.status, got.body)
		}
		n.exec(`DELETE FROM to_device_contents`)
		send().want(200)
		if got, _ := bob.inbox(0); len(got) != 1 {
			t.Errorf("%d messages came", len(got))
		}
	})
}

// TestDeliveriesInSeveralBatches: a delivery that ended in its midst is completed by its repetition, and no device gets
// it twice.
func TestDeliveriesInSeveralBatches(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		ids := n.devicesOf(bob, 160) // three batches
		messages := obj{}
		for i, id := range ids {
			messages[id] = large(i, 60_000)
		}
		send := func() answer {
			return alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: messages}})
		}
		count := func() int { return n.number(`SELECT COUNT(*) FROM to_device`) }
		// The second batch meets a position that is taken, so that the process gives the shard up.
		shard, pos := n.next(bob.userID)
		n.exec(
			`INSERT INTO to_device (shard, pos, user_id, device_id, sender, type, content) VALUES ($1, $2, '@x:x', 'X', '', '', '')`,
			shard,
			pos+80,
		)
		parts := map[string]json.RawMessage{}
		for id, content := range messages {
			parts[id], _ = json.Marshal(content)
		}
		_, err := n.deliverAtOwner(t.Context(), bob.userID, Delivery{
			Sender: alice.userID, DeviceID: alice.deviceID, Type: "m.x", TxnID: "1",
			Messages: map[string]map[string]json.RawMessage{bob.userID: parts},
		})
		if !errors.Is(err, stream.ErrNotOwner) {
			t.Fatalf("the second batch: %v", err)
		}
		n.exec(`DELETE FROM to_device WHERE user_id = '@x:x'`)
		if got := count(); got < 50 || got > 80 {
			t.Errorf("%d messages are stored by the first batch", got)
		}
		// A device that comes meanwhile belongs to the rest.
		send().want(200)
		send().want(200)
		if got := count(); got != len(ids) {
			t.Errorf("%d messages for %d devices", got, len(ids))
		}
		if got := n.number(`SELECT COUNT(DISTINCT device_id) FROM to_device`); got != len(ids) {
			t.Errorf("%d of %d devices have the message", got, len(ids))
		}
	})
}
