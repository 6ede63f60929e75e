package bench

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/tidwall/gjson"
)

// Initial is the first sync of a user who is in many rooms.
type Initial struct {
	Rooms    int
	Messages int // in each room
	Times    int // how often it is measured
	Lazy     bool
}

// Run makes the rooms and measures the first sync again and again.
func (b Initial) Run(ctx context.Context, t *Target, out io.Writer) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	users, err := t.people(ctx, 2, newProgress(out, "users", 2))
	if err != nil {
		return nil, err
	}
	making := newProgress(out, "joins", 2*b.Rooms)
	for range b.Rooms {
		id, err := room(ctx, users, making)
		if err != nil {
			return nil, err
		}
		for n := range b.Messages {
			path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/i%d", url.PathEscape(id), n)
			if _, err := users[1].call(ctx, "PUT", path, body(map[string]string{"msgtype": "m.text", "body": fmt.Sprint("message ", n)}),
				"event_id"); err != nil {
				return nil, err
			}
		}
	}
	m := newMeter()
	usage := t.watch()
	m.start()
	check, size := "ok", 0
	path := "/_matrix/client/v3/sync"
	if b.Lazy {
		path += "?filter=" + url.QueryEscape(`{"room":{"state":{"lazy_load_members":true}}}`)
	}
	for range b.Times {
		began := time.Now()
		page, err := users[0].do(ctx, "GET", path, nil, 5*time.Minute)
		if err != nil {
			return nil, err
		}
		m.record(time.Since(began))
		size = len(page)
		if n := len(gjson.GetBytes(page, "rooms.join").Map()); n != b.Rooms {
			check = fmt.Sprintf("the answer has %d rooms of %d", n, b.Rooms)
		}
	}
	r := m.result("initial", map[string]any{"rooms": b.Rooms, "messages": b.Messages, "lazy": b.Lazy, "bytes": size})
	r.Server, r.Check = usage(), check
	return r, nil
}

// Rooms measures how fast rooms are made and joined.
type Rooms struct {
	Users    int
	Duration time.Duration
	Join     bool // all join one room after another, instead of making rooms
}

// Run makes rooms, or joins them, as fast as answers come.
func (b Rooms) Run(ctx context.Context, t *Target, out io.Writer) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	users, err := t.people(ctx, b.Users, newProgress(out, "users", b.Users))
	if err != nil {
		return nil, err
	}
	m := newMeter()
	mode := "rooms: create"
	if b.Join {
		mode = "rooms: join"
	}
	var rooms []string
	for b.Join && len(rooms) < 50 {
		id, err := users[0].call(ctx, "POST", "/_matrix/client/v3/createRoom", body(map[string]string{"preset": "public_chat"}), "room_id")
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, id)
	}
	until, cancel := context.WithTimeout(ctx, b.Duration)
	defer cancel()
	usage := t.watch()
	m.start()
	stop := ticker(m, out, "done")
	err = parallel(until, len(users), len(users), func(i int) error {
		for n := 0; until.Err() == nil; n++ {
			began := time.Now()
			path, request := "/_matrix/client/v3/createRoom", body(map[string]string{"preset": "private_chat"})
			if b.Join {
				path, request = "/_matrix/client/v3/join/"+url.PathEscape(rooms[n%len(rooms)]), []byte("{}")
				if n >= len(rooms) {
					return nil
				}
			}
			if _, err := users[i].call(ctx, "POST", path, request, "room_id"); err != nil {
				m.errors.Add(1)
				return err
			}
			m.record(time.Since(began))
		}
		return nil
	})
	stop()
	r := m.result(mode, map[string]any{"users": b.Users})
	r.Server, r.Check = usage(), "ok"
	if err != nil && until.Err() == nil {
		r.Check = err.Error()
	}
	return r, ctx.Err()
}
