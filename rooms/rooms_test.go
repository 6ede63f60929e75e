package rooms

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
)

const server = "example.org"

func run(t *testing.T, body func(t *testing.T, p *role.Process, r *Rooms)) {
	t.Helper()
	roletest.Run(t, []db.Migrations{accounts.Migrations(), Migrations()}, func(p *role.Process) *Rooms { return wire(t, p) }, body)
}

func wire(t testing.TB, p *role.Process) *Rooms { return wireLook(t, p, 0) }

// wireLook is wire with Deps.FinishLook.
func wireLook(t testing.TB, p *role.Process, look time.Duration) *Rooms {
	t.Helper()
	a, err := accounts.New(accounts.Deps{Process: p, Now: time.Now}, testAccounts())
	if err != nil {
		t.Fatal(err)
	}
	key, err := matrix.GenerateSigningKey("test", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(
		Deps{Process: p, Accounts: a, ServerName: server, Key: key, FinishInterval: cmp.Or(look, time.Hour)},
		Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100},
	)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func message(sender, text string) Send {
	return Send{
		Sender:  sender,
		Device:  "D",
		Txn:     text,
		Type:    event.TypeMessage,
		Content: encodeJSON(map[string]string{"body": text, "msgtype": "m.text"}),
	}
}

func TestCreateJoinSendRedact(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		ctx := context.Background()
		for _, version := range []string{"10", "11", "12"} {
			id, err := r.Create(
				ctx,
				"@alice:example.org",
				&Create{Version: &version, Name: "A room", Preset: "public_chat", Invite: []string{"@bob:example.org"}},
			)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.join(ctx, id, membershipRequest{Sender: "@bob:example.org", Device: "B"}); err != nil {
				t.Fatal(err)
			}
			first, err := r.Send(ctx, id, message("@bob:example.org", "hello"))
			if err != nil {
				t.Fatal(err)
			}
			again, err := r.Send(ctx, id, message("@bob:example.org", "hello"))
			if err != nil || again != first {
				t.Fatalf("the same transaction gave %s and %s, %v", first, again, err)
			}
			if _, err := r.Send(ctx, id, message("@carol:example.org", "hello")); !matrix.HasCode(err, matrix.CodeForbidden) {
				t.Fatalf("expected M_FORBIDDEN for one who is not there, found %v", err)
			}
			if _, err := r.Send(ctx, id, Send{Sender: "@alice:example.org", Type: event.TypeRedaction, Redacts: first}); err != nil {
				t.Fatal(err)
			}
			e, err := r.Event(ctx, first)
			if err != nil || string(e.Content) != "{}" || e.RedactedBy == "" {
				t.Fatalf("expected a redacted event, found %s %s, %v", e.Content, e.RedactedBy, err)
			}
			h, _, err := r.Head(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			full, err := r.FullState(ctx, h.Root)
			if err != nil || len(full) != 8 {
				t.Fatalf("expected 8 state events, found %d, %v", len(full), err)
			}
			timeline, err := r.Timeline(ctx, Page{RoomID: id, From: 1 << 62, Backward: true, Limit: 3})
			if err != nil || len(timeline) != 3 || timeline[0].Type != event.TypeRedaction || timeline[1].ID != first {
				t.Fatalf("unexpected timeline %v, %v", timeline, err)
			}
		}
	})
}

func TestTransactionSurvivesTheOwner(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		ctx := context.Background()
		id, err := r.Create(ctx, "@alice:example.org", &Create{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := r.Send(ctx, id, message("@alice:example.org", "once"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.RecentEvents {
			if _, err := r.Send(ctx, id, message("@alice:example.org", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		r.owned.Drop(r.stream.Shard(id)) // another process owns it now: nothing is remembered
		again, err := r.Send(ctx, id, message("@alice:example.org", "once"))
		if err != nil || again != first {
			t.Fatalf("expected %s again, found %s, %v", first, again, err)
		}
		if _, err := r.Send(ctx, id, message("@alice:example.org", "after")); err != nil {
			t.Fatal(err)
		}
	})
}

// A request that was done is answered as it was, though its sender may not do it any more.
func TestATransactionIsAnsweredAfterItsSenderWasBanned(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		ctx, bob := context.Background(), "@bob:example.org"
		id, err := r.Create(ctx, "@alice:example.org", &Create{Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.join(ctx, id, membershipRequest{Sender: bob, Device: "D"}); err != nil {
			t.Fatal(err)
		}
		first, err := r.Send(ctx, id, message(bob, "once"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.setMembership(ctx, id, membershipRequest{
			Sender: "@alice:example.org", Target: bob,
			Membership: event.MembershipBan,
		}); err != nil {
			t.Fatal(err)
		}
		for i := range r.RecentEvents {
			if _, err := r.Send(ctx, id, message("@alice:example.org", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		r.owned.Drop(r.stream.Shard(id)) // the next owner remembers the newest transactions only
		if again, err := r.Send(ctx, id, message(bob, "once")); err != nil || again != first {
			t.Errorf("expected %s again, found %s, %v", first, again, err)
		}
		if id, err := r.Send(ctx, id, message(bob, "another")); !matrix.HasCode(err, matrix.CodeForbidden) || id != "" {
			t.Errorf("a banned user sent %s, %v", id, err)
		}
	})
}

func TestConcurrentSendsFormOneChain(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		ctx := context.Background()
		id, err := r.Create(ctx, "@alice:example.org", &Create{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := range 10 {
					if _, err := r.Send(ctx, id, message("@alice:example.org", fmt.Sprint(w, "-", i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		events, err := r.Timeline(ctx, Page{RoomID: id, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range events[1:] {
			if e.PrevEvents[0] != events[i].ID || e.Depth != events[i].Depth+1 {
				t.Fatalf("event %d does not follow the one before it", i+1)
			}
		}
		if n := len(events); n < 160 {
			t.Fatalf("found %d events", n)
		}
	})
}

func TestDecodeGivesWhatWasEncoded(t *testing.T) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		ctx := context.Background()
		id, err := r.Create(ctx, "@alice:example.org", &Create{Name: "one"})
		if err != nil {
			t.Fatal(err)
		}
		empty := ""
		eventID, err := r.Send(
			ctx,
			id,
			Send{Sender: "@alice:example.org", Type: event.TypeName, StateKey: &empty, Content: json.RawMessage(`{"name":"two"}`)},
		)
		if err != nil {
			t.Fatal(err)
		}
		e, err := r.Event(ctx, eventID)
		if err != nil || string(e.PrevContent) != `{"name":"one"}` {
			t.Fatalf("expected the name before, found %s, %v", e.PrevContent, err)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	d := openBench(b)
	p := roletest.New(b, d)
	r := wire(b, p)
	roletest.Start(b, p)
	ctx := context.Background()
	var ids []string
	for range 20 {
		id, err := r.Create(ctx, "@alice:example.org", &Create{})
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	b.ReportAllocs()
	b.SetParallelism(8)
	var n sync.Mutex
	i := 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.Lock()
			i++
			k := i
			n.Unlock()
			if _, err := r.Send(ctx, ids[k%20], message("@alice:example.org", fmt.Sprint(k))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func testAccounts() accounts.Config {
	return accounts.Config{
		ServerName: server, Registration: "open", CacheTokens: 100, CacheUsers: 100, CacheFilters: 100,
		Password: accounts.PasswordConfig{MinLength: 1, MemoryKiB: 64, Passes: 1, Workers: 1, Waiting: 10},
	}
}
