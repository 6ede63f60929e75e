package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
)

// CCU is many clients that wait in /sync while messages are sent at a fixed rate.
type CCU struct {
	Clients  int
	RoomSize int
	Rate     float64 // messages per second in all
	Duration time.Duration
}

const ccuFilter = `{"room":{"timeline":{"limit":50},"state":{"lazy_load_members":true}},"presence":{"types":[]}}`

// Run lets all clients do their first sync, then sends and measures each delivery.
func (c CCU) Run(ctx context.Context, t *Target, out io.Writer) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	users, err := t.people(ctx, c.Clients, newProgress(out, "users", c.Clients))
	if err != nil {
		return nil, err
	}
	groups := (c.Clients + c.RoomSize - 1) / c.RoomSize
	rooms := make([]string, groups)
	making := newProgress(out, "joins", c.Clients)
	if err := parallel(ctx, groups, 8, func(g int) (err error) {
		rooms[g], err = room(ctx, users[g*c.RoomSize:min(c.Clients, (g+1)*c.RoomSize)], making)
		return err
	}); err != nil {
		return nil, err
	}
	run := &ccuRun{CCU: c, users: users, rooms: rooms, meter: newMeter(), seen: make([]int64, c.Clients), sent: make([]atomic.Int64, groups)}
	syncing := newProgress(out, "first syncs", c.Clients)
	tokens := make([]string, c.Clients)
	if err := parallel(ctx, c.Clients, 16, func(i int) error {
		page, err := users[i].do(ctx, "GET", "/_matrix/client/v3/sync?filter="+url.QueryEscape(ccuFilter), nil, 2*time.Minute)
		tokens[i] = gjson.GetBytes(page, "next_batch").String()
		users[i].release() // it is long, and so many of them wait for the last
		syncing.step()
		return err
	}); err != nil {
		return nil, err
	}
	return run.measure(ctx, t, tokens, out)
}

type ccuRun struct {
	CCU
	users []*person
	rooms []string
	meter *meter
	seen  []int64        // by client: last message number seen in its room
	sent  []atomic.Int64 // by room: messages acknowledged
	bad   sync.Map       // first complaint of a client
	got   atomic.Int64

	answers atomic.Int64 // polls answered
	bytes   atomic.Int64 // of the answers
}

func (c *ccuRun) measure(ctx context.Context, t *Target, tokens []string, out io.Writer) (*Result, error) {
	listening, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for i := range c.users {
		wg.Go(func() { c.listen(listening, i, tokens[i]) })
	}
	settled := c.settle(ctx, out)
	usage, answered, bytes := t.watch(), c.answers.Load(), c.bytes.Load()
	c.meter.start()
	stopTicks := ticker(c.meter, out, "deliveries")
	senders, err := c.send(ctx, t)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); c.got.Load() < c.expected() && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(50 * time.Millisecond)
	}
	stopTicks()
	r := c.meter.result("ccu", map[string]any{
		"clients": c.Clients, "room_size": c.RoomSize, "rate": c.Rate, "sent": senders,
		"settled_after_s": settled.Seconds(),
	})
	r.Server, r.Deliveries, r.Check = usage(), c.got.Load(), "ok"
	r.Settings["answers"], r.Settings["answer_bytes"] = c.answers.Load()-answered, c.bytes.Load()-bytes
	c.bad.Range(func(_, v any) bool {
		r.Check = v.(string)
		return false
	})
	if want := c.expected(); r.Check == "ok" && r.Deliveries != want {
		r.Check = fmt.Sprintf("%d deliveries were due, %d came", want, r.Deliveries)
	}
	stop()
	wg.Wait()
	return r, ctx.Err()
}

// settle waits until the clients wait: joins, presence and device lists of so many who come at once are
// news to each other. It ends when in a second less than one client in fifty was answered, or after a minute.
func (c *ccuRun) settle(ctx context.Context, out io.Writer) time.Duration {
	began, last := time.Now(), c.answers.Load()
	for quiet := 0; quiet < 3 && time.Since(began) < time.Minute && ctx.Err() == nil; {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		now := c.answers.Load()
		if now-last < int64(c.Clients/50+1) {
			quiet++
		} else {
			quiet = 0
		}
		last = now
	}
	took := time.Since(began)
	fmt.Fprintf(out, "%d clients wait, settled after %.0f s\n", c.Clients, took.Seconds())
	return took
}

// expected is how many deliveries the acknowledged messages make.
func (c *ccuRun) expected() (n int64) {
	for g := range c.rooms {
		size := min(c.RoomSize, c.Clients-g*c.RoomSize)
		n += c.sent[g].Load() * int64(size)
	}
	return n
}

// send sends at the rate for the duration: a message carries its number in its room and its start.
func (c *ccuRun) send(ctx context.Context, t *Target) (int64, error) {
	const width = 32
	type job struct{ room int }
	jobs := make(chan job, 1000)
	locks := make([]sync.Mutex, len(c.rooms))
	var wg sync.WaitGroup
	var total atomic.Int64
	for range width {
		wg.Go(func() {
			w := conn{servers: t.servers} // the users' own connections wait in /sync
			defer w.close()
			for last := time.Now(); ; last = time.Now() {
				j, ok := <-jobs
				if !ok {
					return
				}
				if time.Since(last) > 10*time.Second {
					w.close() // a server may end it just now, and the retry would count
				}
				locks[j.room].Lock()
				if c.sendOne(ctx, &w, j.room) {
					total.Add(1)
				}
				locks[j.room].Unlock()
			}
		})
	}
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		due := began.Add(time.Duration(float64(n) / c.Rate * float64(time.Second)))
		if due.Sub(began) > c.Duration {
			break
		}
		time.Sleep(time.Until(due))
		jobs <- job{rand.IntN(len(c.rooms))}
	}
	close(jobs)
	wg.Wait()
	return total.Load(), ctx.Err()
}

func (c *ccuRun) sendOne(ctx context.Context, w *conn, g int) bool {
	w.token = c.users[g*c.RoomSize].token
	n := c.sent[g].Load() + 1
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(c.rooms[g]) + "/send/m.room.message/" + fmt.Sprintf("c%d", n)
	message := fmt.Appendf(nil, `{"msgtype":"m.text","body":"%d-%d"}`, n, time.Now().UnixNano())
	for try := 0; ctx.Err() == nil; try++ {
		_, err := w.do(ctx, "PUT", path, message, 30*time.Second)
		if err == nil {
			c.sent[g].Add(1)
			return true
		}
		if !retryable(err) || try > 100 {
			break
		}
		c.meter.retry.Add(1)
		time.Sleep(50 * time.Millisecond)
	}
	c.meter.errors.Add(1)
	return false
}

// listen is one client: it asks again as soon as it is answered.
func (c *ccuRun) listen(ctx context.Context, i int, since string) {
	u := c.users[i]
	path := []byte("/_matrix/client/v3/sync?timeout=30000&filter=" + url.QueryEscape(ccuFilter) + "&since=")
	constant := len(path)
	path = append(path, url.QueryEscape(since)...)
	for ctx.Err() == nil {
		page, err := u.ask(ctx, "GET", path, nil, time.Minute)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !retryable(err) {
				c.meter.errors.Add(1)
				c.bad.Store(i, err.Error())
				return
			}
			c.meter.retry.Add(1)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c.answers.Add(1)
		c.bytes.Add(int64(len(page)))
		if next := c.read(page, i); next != "" {
			path = append(path[:constant], url.QueryEscape(next)...)
		}
	}
}

// read takes the messages out of an answer to client i and returns its next_batch. Each part is parsed once.
func (c *ccuRun) read(page []byte, i int) (next string) {
	now, id := time.Now().UnixNano(), c.rooms[i/c.RoomSize]
	root := gjson.ParseBytes(page)
	root.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "next_batch":
			next = value.Str
		case "rooms":
			value.Get("join").ForEach(func(key, value gjson.Result) bool {
				if key.Str == id {
					value.Get("timeline.events").ForEach(func(_, e gjson.Result) bool {
						c.message(e.Get("content.body").Str, i, now)
						return true
					})
				}
				return true
			})
		}
		return true
	})
	return next
}

// message counts a message that client i got, if it is one of this run.
func (c *ccuRun) message(text string, i int, now int64) {
	number, start, _ := strings.Cut(text, "-")
	n, err := strconv.ParseInt(number, 10, 64)
	started, err2 := strconv.ParseInt(start, 10, 64)
	if err != nil || err2 != nil {
		return
	}
	if n != c.seen[i]+1 {
		c.bad.LoadOrStore(i, fmt.Sprintf("client %d got message %d after message %d", i, n, c.seen[i]))
	}
	c.seen[i] = n
	c.got.Add(1)
	c.meter.record(time.Duration(now - started))
}
