package devices

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/stream"
)

func TestMessagesReachDevices(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		second := n.login("bob")
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{
			bob.userID: obj{bob.deviceID: obj{"n": 1}, "NOPE": obj{}}, "@x:else.where": obj{"*": obj{}}, "@nobody:here.test": obj{"*": obj{}},
		}}).want(200)
		alice.do("PUT /sendToDevice/m.y/1", obj{"messages": obj{bob.userID: obj{"*": obj{"n": 2}}}}).want(200)
		got, last := bob.inbox(0)
		if len(got) != 2 || got[0] != `{"content":{"n":1},"sender":"@alice:here.test","type":"m.x"}` || !strings.Contains(got[1], "m.y") {
			t.Fatalf("messages: %v", got)
		}
		if other, _ := second.inbox(0); len(other) != 1 {
			t.Errorf("the second device: %v", other)
		}
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": obj{"n": 1}}}}).want(200)
		if again, _ := bob.inbox(last); len(again) != 0 {
			t.Errorf("a repeated transaction was delivered again: %v", again)
		}
		ctx := context.Background()
		if err := n.DeleteToDevice(ctx, bob.userID, bob.deviceID, last); err != nil {
			t.Fatal(err)
		}
		if left, _ := bob.inbox(0); len(left) != 0 {
			t.Errorf("after the deletion: %v", left)
		}
		if other, _ := second.inbox(0); len(other) != 1 {
			t.Errorf("the deletion took the messages of another device: %v", other)
		}
		for i := range 5 {
			alice.do(fmt.Sprintf("PUT /sendToDevice/m.z/%d", i), obj{"messages": obj{bob.userID: obj{bob.deviceID: obj{"i": i}}}}).want(200)
		}
		st := n.ToDeviceStream()
		var seen int
		for after, upto := last, st.Position(st.Shard(bob.userID)); after < upto; {
			page, next, err := n.ToDevice(ctx, bob.userID, bob.deviceID, MessageRange{after, upto, 2})
			if err != nil || len(page) > 2 || next <= after {
				t.Fatalf("page: %v, %d, %v", page, next, err)
			}
			seen += len(page)
			after = next
		}
		if seen != 5 {
			t.Errorf("%d messages came in pages", seen)
		}
		for target, body := range map[string]string{
			"PUT /sendToDevice/m.x/9": `{}`, "PUT /sendToDevice/m.x/8": `{"messages":{"` + bob.userID + `":{"*":7}}}`,
		} {
			if got := alice.do(target, body); got.status != 400 {
				t.Errorf("%s %s: %d", target, body, got.status)
			}
		}
	})
}

func TestRepeatedDeliveriesOverProcesses(t *testing.T) {
	fleet(t, func(t *testing.T, one, two *node) {
		alice := one.register("alice")
		var receivers []*login
		messages := obj{}
		for i := range 12 { // so that both processes own some of their shards
			r := one.register(fmt.Sprintf("user%d", i))
			receivers = append(receivers, r)
			messages[r.userID] = obj{"*": obj{"hello": i}}
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				alice.on([]*node{one, two}[i%2]).do("PUT /sendToDevice/m.x/txn", obj{"messages": messages}).want(200)
			})
		}
		wg.Wait()
		for _, r := range receivers {
			for _, at := range []*node{one, two} {
				if got, _ := r.on(at).inbox(0); len(got) != 1 {
					t.Errorf("%s has %d messages", r.userID, len(got))
				}
			}
		}
		// A request that reached only some shards is completed by its repetition.
		later := one.register("later")
		messages[later.userID] = obj{"*": obj{}}
		if _, err := one.db.Exec(context.Background(), `DELETE FROM to_device_txns
			WHERE shard = $1`, one.ToDeviceStream().Shard(later.userID)); err != nil {
			t.Fatal(err)
		}
		alice.do("PUT /sendToDevice/m.x/txn", obj{"messages": obj{later.userID: obj{"*": obj{}}}}).want(200)
		if got, _ := later.on(two).inbox(0); len(got) != 1 {
			t.Errorf("the missing part was not delivered: %v", got)
		}
	})
}

func TestMissedRowsAreReadFromTheStore(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		bob.do("POST /keys/upload", obj{"one_time_keys": bob.oneTimeKeys("A")}).want(200)
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{bob.deviceID: obj{}}}}).want(200)
		alice.claimFrom(bob) // takes the place of the upload
		st := n.ToDeviceStream()
		shard := st.Shard(bob.userID)
		rows, err := st.Read(context.Background(), stream.Range{Shard: shard, Upto: st.Position(shard), Limit: 10})
		if err != nil || len(rows) != 2 || rows[0].Pos != 2 || rows[1].Pos != 3 {
			t.Fatalf("rows: %v, %v", rows, err)
		}
		for i, row := range rows {
			userID, deviceID, message := DecodeToDevice(row)
			if userID != bob.userID || deviceID != bob.deviceID || message != (i == 0) {
				t.Errorf("row %d: %s %s %v", row.Pos, userID, deviceID, message)
			}
		}
		bob.do("PUT /devices/"+bob.deviceID, obj{"display_name": "x"}).want(200)
		// A process that started later has no memory of the change.
		lists := n.DeviceListStream()
		n.recentChanges.mu.Lock()
		n.recentChanges.shards = make([]changeWindow, lists.Shards())
		n.recentChanges.mu.Unlock()
		changed, err := n.ChangedUsers(context.Background(), bob.userID, make([]int64, lists.Shards()), lists.Positions())
		if err != nil || len(changed) != 1 || changed[0] != bob.userID {
			t.Errorf("changed: %v, %v", changed, err)
		}
	})
}
