package hostiletest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/fleettest"
)

// usual is how many bytes an answer has at most; budgets are those of routes that answer with more, for a user who has
// stored as much as the limits allow.
const usual = 256 * kib

var budgets = map[string]int{
	// timelines 8, account data 4, messages for the device 1 and the last of them
	"GET " + v3 + "/sync":                                                12 * mib,
	"GET " + v3 + "/rooms/{roomID}/messages":                             3 * mib,
	"GET " + v3 + "/rooms/{roomID}/context/{eventID}":                    3 * mib,
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}":                  3 * mib,
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}/{relType}":        3 * mib,
	"GET " + v1 + "/rooms/{roomID}/relations/{eventID}/{relType}/{type}": 3 * mib,
	"GET " + v1 + "/rooms/{roomID}/threads":                              3 * mib,
	"GET " + v3 + "/notifications":                                       3 * mib,
	"POST " + v3 + "/search":                                             3 * mib,
	"GET " + v3 + "/user/{userID}/account_data/{type}":                   mib,
	"GET " + v3 + "/room_keys/keys":                                      64 * mib, // sent page by page: it is a whole backup
	"GET " + v3 + "/room_keys/keys/{roomID}":                             64 * mib,
	"GET /_lyceum/ui/{file...}":                                          4 * mib,
}

// memoryBound is what the process may have in memory while many read slowly, more than before: 256 MiB for them
// (http.max_in_flight), and 200 MiB for what is being made and for the collector (manual/survival.md).
const memoryBound = 456 * mib

const readers = 60

// fat gives a user as much as the limits allow, within what a test has time for.
func (w *world) fat(u *fleettest.User) {
	w.t.Helper()
	long := strings.Repeat("x", 60_000)
	var wg sync.WaitGroup
	room := w.names["roomID"]
	for n := range 60 {
		u.Do("PUT", fleettest.RoomPath(room, "send", "m.room.message", fmt.Sprint("fat", n)), obj{
			"msgtype": "m.text", "body": long, "m.relates_to": obj{"rel_type": "m.thread", "event_id": w.names["eventID"]},
		})
	}
	for n := range 4 {
		wg.Go(func() {
			for i := range 2 {
				u.Do("PUT", u.UserPath("account_data", fmt.Sprint("fat.", n, i)), obj{"x": strings.Repeat("x", 400_000)})
			}
			sessions := obj{}
			for i := range 100 {
				sessions[fmt.Sprint("s", i)] = backupSession(strings.Repeat("x", 16_000))
			}
			u.Do("PUT", v3+"/room_keys/keys/"+url.PathEscape(fmt.Sprintf("!%d:x", n))+"?version=1", obj{"sessions": sessions})
		})
	}
	wg.Wait()
	other := w.people["member"]
	for n := range 100 {
		other.Do(
			"PUT",
			v3+"/sendToDevice/test.fat/fat"+fmt.Sprint(n),
			obj{"messages": obj{u.ID: obj{"*": obj{"x": strings.Repeat("x", 60_000)}}}},
		)
	}
}

// TestAnswersHaveBudgets asks each route as a user who has stored a lot, and then with many readers who do not read.
func TestAnswersHaveBudgets(t *testing.T) {
	f := start(t, "sqlite")
	w := newWorld(t, f.Fleet)
	owner := w.people["owner"]
	w.fat(owner)
	wide := url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`)
	for _, r := range routes(t) {
		if r.method != "GET" && !strings.HasSuffix(r.path, "/search") && !strings.HasSuffix(r.path, "/keys/query") &&
			!strings.HasSuffix(r.path, "/publicRooms") {
			continue
		}
		e := table[r.String()][0]
		switch {
		case strings.Contains(e.query, "limit="), e.query == "":
			e.query = "limit=1000&dir=b&filter=" + wide
			if strings.Contains(r.path, "/messages") || strings.Contains(r.path, "/context") {
				e.query = "limit=1000&dir=b"
			}
		}
		if strings.HasSuffix(r.path, "/{type}") && strings.Contains(r.path, "/user/{userID}/account_data") {
			e.with = typ("fat.00")
		}
		got := w.ask(r, e, "owner")
		budget := budgets[r.String()]
		if budget == 0 {
			budget = usual
		}
		if size := len(got.body.Raw); size > budget {
			t.Errorf("%s gave %d bytes, expected at most %d", r, size, budget)
		}
	}
	slowReaders(t, f, owner)
}

// slowReaders ask for the largest answers over many connections and read nothing.
func slowReaders(t *testing.T, f *fleettest.Alone, who *fleettest.User) {
	address := strings.TrimPrefix(f.URL(), "http://")
	path := v3 + "/sync?timeout=0&filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`)
	began := resident(t, f.PID)
	var open []net.Conn
	statuses := map[string]int{}
	peak := began
	for range readers {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		open = append(open, c)
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, who.Token)
		peak = max(peak, resident(t, f.PID))
	}
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		peak = max(peak, resident(t, f.PID))
	}
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			line = "none"
		}
		statuses[strings.TrimSpace(line)]++
	}
	t.Logf("%d readers that do not read: %v; memory %d MiB before, %d MiB at most", readers, statuses, began/mib, peak/mib)
	if peak > began+memoryBound {
		t.Errorf("the process has %d MiB in memory, expected at most %d", peak/mib, (began+memoryBound)/mib)
	}
	if statuses["HTTP/1.1 429 Too Many Requests"] == 0 {
		t.Error("one user holds as many answers as there are readers")
	}
}

// resident is the memory of a process in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Skip("this system does not tell the memory of processes")
	}
	pages, err := strconv.Atoi(string(bytes.Fields(text)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
