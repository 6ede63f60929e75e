package rooms

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix/event"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// fleetMember is a process of a fleet with some roles.
func fleetMember(t *testing.T, d *db.DB, b bus.Bus, roles ...string) *Rooms {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	leases, err := lease.Open(t.Context(), d, lease.Options{Machine: -1, Roles: roles, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p := &role.Process{DB: d, Bus: b, Leases: leases, Log: log}
	p.Streams = stream.New(stream.Options{DB: d, Bus: b, Leases: leases, Log: log})
	r := wire(t, p)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return r
}

// A process that does not receive the events keeps none that a redaction may change, and one that begins to keeps
// what is current.
func TestRedactionsReachProcessesThatDoNotFollow(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		writer, idle := fleetMember(t, d, b, "events", "accountdata"), fleetMember(t, d, b, "media")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		id, err := writer.Create(ctx, "@alice:example.org", &Create{Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		for _, follow := range []bool{false, true} {
			if follow {
				if err := idle.FollowRedactions(ctx); err != nil {
					t.Fatal(err)
				}
			}
			sent, err := writer.Send(
				ctx,
				id,
				Send{Sender: "@alice:example.org", Type: event.TypeMessage, Content: encodeJSON(map[string]string{"body": "x"})},
			)
			if err != nil {
				t.Fatal(err)
			}
			if e, err := idle.Event(ctx, sent); err != nil || e.RedactedBy != "" {
				t.Fatalf("%+v, %v", e, err)
			}
			if _, kept := idle.cache.GetIfPresent(sent); kept != follow || idle.Stream().IsReceived() != follow {
				t.Errorf("following: %v, the event is kept: %v", follow, kept)
			}
			if _, err := writer.Send(ctx, id, Send{Sender: "@alice:example.org", Type: event.TypeRedaction, Redacts: sent}); err != nil {
				t.Fatal(err)
			}
			if err := idle.Process.Streams.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
			if e, err := idle.Event(ctx, sent); err != nil || e.RedactedBy == "" {
				t.Errorf("following: %v, found the text before the redaction, %v", follow, err)
			}
		}
	}, lease.Migrations(), accounts.Migrations(), Migrations())
}
