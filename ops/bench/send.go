package bench

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/backoff"
)

// Send is a closed loop: each sender sends as soon as its last message was acknowledged.
type Send struct {
	Senders  int
	Rooms    int
	Duration time.Duration
}

// readers are how many members of each room read it back: with hundreds of senders, all would take longer than the sending.
const readers = 16

// Run registers the senders, lets all join all rooms, sends, and reads every room back as every member, or sixteen of them.
func (s Send) Run(ctx context.Context, t *Target, out io.Writer) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	users, err := t.people(ctx, s.Senders, newProgress(out, "users", s.Senders))
	if err != nil {
		return nil, err
	}
	rooms := make([]string, s.Rooms)
	making := newProgress(out, "joins", s.Rooms*s.Senders)
	for i := range rooms {
		if rooms[i], err = room(ctx, users, making); err != nil {
			return nil, err
		}
	}
	m := newMeter()
	ledger := newLedger(rooms, len(users))
	usage := t.watch()
	m.start()
	until, cancel := context.WithTimeout(ctx, s.Duration)
	defer cancel()
	stopTicks := ticker(m, out, "messages")
	var wg sync.WaitGroup
	for i, u := range users {
		wg.Go(func() { s.loop(ctx, until, sender{u, i, rooms, m, ledger}) })
	}
	wg.Wait()
	stopTicks()
	r := m.result("send", map[string]any{"senders": s.Senders, "rooms": s.Rooms})
	r.Server = usage()
	read := min(len(users), readers)
	checking := newProgress(out, "rooms read back", read*s.Rooms)
	r.Check = "ok"
	err = parallel(ctx, read, 4, func(i int) error {
		for n, id := range rooms {
			if err := readBack(ctx, users[i+read*(n%(len(users)/read))], id, ledger); err != nil {
				return err
			}
			checking.step()
		}
		return nil
	})
	if err != nil {
		r.Check = err.Error()
	}
	return r, ctx.Err()
}

// sender is one loop of Send.
type sender struct {
	user   *person
	index  int
	rooms  []string
	meter  *meter
	ledger *ledger
}

func (s Send) loop(ctx, until context.Context, w sender) {
	for n := 0; until.Err() == nil; n++ {
		id := w.rooms[(n+w.index)%len(w.rooms)]
		text := fmt.Sprintf("%d-%d", w.index, n)
		path := "/_matrix/client/v3/rooms/" + url.PathEscape(id) + "/send/m.room.message/" + text
		message := []byte(`{"msgtype":"m.text","body":"` + text + `"}`)
		began := time.Now()
		for pause := (backoff.Backoff{First: 20 * time.Millisecond, Max: 500 * time.Millisecond}); ; {
			out, err := w.user.do(ctx, "PUT", path, message, 30*time.Second)
			if err == nil {
				w.meter.record(time.Since(began))
				w.ledger.acknowledged(id, w.index, n, gjson.GetBytes(out, "event_id").String())
				break
			}
			if !retryable(err) || ctx.Err() != nil {
				w.meter.errors.Add(1)
				return
			}
			// The same transaction id: the server must not store it twice.
			w.meter.retry.Add(1)
			if pause.Wait(ctx) != nil {
				return
			}
		}
	}
}

// ledger holds what was acknowledged, by room and sender, in the order of sending.
type ledger struct {
	mu    sync.Mutex
	rooms map[string][][]sent
	order map[string][]string // of the first member who read the room: event ids
}

type sent struct {
	n       int
	eventID string
}

func newLedger(rooms []string, senders int) *ledger {
	l := &ledger{rooms: map[string][][]sent{}, order: map[string][]string{}}
	for _, id := range rooms {
		l.rooms[id] = make([][]sent, senders)
	}
	return l
}

func (l *ledger) acknowledged(room string, sender, n int, eventID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rooms[room][sender] = append(l.rooms[room][sender], sent{n, eventID})
}

// readBack reads a room from its beginning as one member and compares it with what was acknowledged.
func readBack(ctx context.Context, u *person, roomID string, l *ledger) error {
	seen := map[string]bool{}
	next := make(map[int]int)
	var order []string
	from := ""
	for {
		path := "/_matrix/client/v3/rooms/" + url.PathEscape(roomID) + "/messages?dir=f&limit=1000&filter=" +
			url.QueryEscape(`{"types":["m.room.message"]}`)
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		page, err := u.do(ctx, "GET", path, nil, time.Minute)
		if err != nil {
			return err
		}
		var bad error
		gjson.GetBytes(page, "chunk").ForEach(func(_, e gjson.Result) bool {
			id := e.Get("event_id").String()
			var sender, n int
			if _, err := fmt.Sscanf(e.Get("content.body").String(), "%d-%d", &sender, &n); err != nil {
				return true
			}
			if seen[id] {
				bad = fmt.Errorf("event %s came twice", id)
				return false
			}
			if last, ok := next[sender]; ok && n <= last {
				bad = fmt.Errorf("room %s: message %d of sender %d follows its message %d", roomID, n, sender, last)
				return false
			}
			seen[id], next[sender] = true, n
			order = append(order, id)
			return true
		})
		if bad != nil {
			return bad
		}
		end := gjson.GetBytes(page, "end").String()
		if end == "" || end == from {
			break
		}
		from = end
	}
	return l.compare(roomID, seen, order)
}

func (l *ledger) compare(roomID string, seen map[string]bool, order []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	acknowledged := 0
	for sender, list := range l.rooms[roomID] {
		for _, m := range list {
			acknowledged++
			if !seen[m.eventID] {
				return fmt.Errorf("room %s: message %d of sender %d was acknowledged as %s and is lost", roomID, m.n, sender, m.eventID)
			}
		}
	}
	if len(order) != acknowledged {
		return fmt.Errorf("room %s: %d messages were acknowledged, %d are there", roomID, acknowledged, len(order))
	}
	if first := l.order[roomID]; first == nil {
		l.order[roomID] = order
	} else {
		for i, id := range order {
			if first[i] != id {
				return fmt.Errorf("room %s: two members see different orders from message %d on", roomID, i)
			}
		}
	}
	return nil
}

// ticker prints each second what was done, until the returned function is called.
func ticker(m *meter, out io.Writer, what string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				p := m.tick()
				fmt.Fprintf(out, "%4d s  %6d %s/s  p50 %.1f ms  p95 %.1f ms\n", p.Second, p.Count, what, p.P50, p.P95)
			}
		}
	}()
	return func() { close(quit); <-done }
}
