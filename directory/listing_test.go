package directory

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
	"lyceum/rooms"
	"lyceum/rooms/roomstest"
)

// counted is a house on SQLite whose statements are counted.
func counted(t *testing.T) (h *house, statements *atomic.Int64) {
	t.Helper()
	statements = &atomic.Int64{}
	d, err := db.Open(
		t.Context(),
		"sqlite:"+filepath.Join(t.TempDir(), "test.db"),
		db.Options{Observe: func(n int) { statements.Add(int64(n)) }},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), lease.Migrations(), accounts.Migrations(), rooms.Migrations(),
		Migrations()); err != nil {
		t.Fatal(err)
	}
	p := roletest.New(t, d)
	h = wire(t, roomstest.New(t, p, rooms.Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100}))
	roletest.Start(t, p)
	return h, statements
}

// asking is the context of somebody who asks, which tells when its end is waited for.
type asking struct {
	context.Context
	waits func()
}

func (a asking) Done() <-chan struct{} {
	a.waits()
	return a.Context.Done()
}

// TestManyWhoAskForTheRoomsCostOneReading, which counts the members of all rooms, and is for people without an account too.
func TestManyWhoAskForTheRoomsCostOneReading(t *testing.T) {
	const many = 30
	h, statements := counted(t)
	h.create(h.alice, obj{"visibility": "public", "preset": "public_chat"})
	h.indexed()
	ask := func(ctx context.Context) {
		if list, err := h.publicRooms(ctx, &listBody{}); err != nil || len(list) != 1 {
			t.Errorf("expected one room, found %d, %v", len(list), err)
		}
	}
	ask(t.Context()) // the summary is in memory from now on

	// A reading is under way while all of them ask.
	inside, goOn := make(chan struct{}), make(chan struct{})
	wait := sync.OnceFunc(func() {
		close(inside)
		<-goOn
	})
	var all sync.WaitGroup
	all.Go(func() {
		_, err := h.listing.do(t.Context(), func(ctx context.Context) ([]rooms.PublicRoom, error) {
			wait()
			return h.Rooms.PublicRooms(ctx)
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	before := statements.Load()
	var waiting atomic.Int64
	for range many {
		waits := sync.OnceFunc(func() { waiting.Add(1) })
		all.Go(func() { ask(asking{t.Context(), waits}) })
	}
	roletest.Until(t, "all of them wait", func() bool { return waiting.Load() == many })
	close(goOn)
	all.Wait()
	if n := statements.Load() - before; n > many/2 { // two are theirs, others by background parts
		t.Errorf("%d who asked while a reading was under way cost %d statements with it: expected 2 and few of background parts", many, n)
	}
}
