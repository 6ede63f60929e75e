package admin

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lyceum/ops/plan"
	"lyceum/platform/status"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/ui"
)

var people = webtest.People{
	"root": {UserID: "@root:x", Admin: true}, "user": {UserID: "@user:x"}, "guest": {UserID: "@guest:x", Guest: true},
}

var roles = []plan.Role{
	{Name: "client"},
	{Name: "sync"},
	{Name: "events", Stream: "events", Shards: 16},
	{Name: "uploads", Pool: "media"},
	{Name: "media"},
}

// fleetAt is a fleet of two processes that has run for so many seconds: 10 events and half a core a second.
func fleetAt(start time.Time, seconds float64) *status.Fleet {
	at := start.Add(time.Duration(seconds * float64(time.Second)))
	process := func(machine int, role string) status.Sample {
		return status.Sample{
			At: at, Machine: machine, Incarnation: 7, Roles: []string{role}, Version: "1.2.3", Started: start, Ready: true,
			CPU: seconds / 2, CPUs: 2, Resident: 100 << 20,
		}
	}
	events, sync := process(1, "events"), process(2, "sync")
	events.Streams = []status.ProcessStream{{Name: "events", Shards: []status.ProcessShard{{Rows: 6 * seconds}, {Rows: 4 * seconds}}}}
	events.Routes = []status.Route{
		{
			Pattern: "GET /idle",
			Role:    "client",
			ByCode:  map[string]float64{},
			Latency: status.Histogram{Bounds: []float64{1}, Counts: []uint64{0}},
		},
	}
	sync.Routes = []status.Route{
		{Pattern: "GET /_matrix/client/v3/sync", Role: "sync", InFlight: 42},
		{
			Pattern: "POST /upload",
			Role:    "uploads",
			ByCode:  map[string]float64{"2xx": seconds / 10},
			Latency: status.Histogram{Count: uint64(seconds)},
		},
	}
	return &status.Fleet{At: at, Server: "x", Version: "1.2.3", Processes: []status.Sample{events, sync}}
}

func deps(ask func(ctx context.Context) *status.Fleet) Deps {
	return Deps{
		Status: ask, Roles: roles, Now: time.Now,
		Doctor: func(before, after *status.Fleet, p *plan.Plan) (string, any) {
			return "All is well", []map[string]any{{"severity": "ok", "two": before != nil, "users": p.Load.ConcurrentUsers}}
		},
	}
}

func TestDataIsForAdministrators(t *testing.T) {
	a := New(deps(func(context.Context) *status.Fleet { return fleetAt(time.Unix(1e9, 0), 10) }))
	c := webtest.New(t, people, a.Routes()...)
	for _, path := range []string{"status", "plan", "doctor"} {
		for token, want := range map[string]int{"": 401, "wrong": 401, "guest": 403, "user": 403, "root": 200} {
			answer := c.As(token).Call("GET "+data+"/"+path, nil)
			if answer.Status != want {
				t.Errorf("%s as %q: status %d, want %d", path, token, answer.Status, want)
			}
			if want == 200 && answer.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s may be kept by caches: %q", path, answer.Header.Get("Cache-Control"))
			}
			if want != 200 && strings.Contains(string(answer.Body), "1.2.3") {
				t.Errorf("%s as %q tells data: %s", path, token, answer.Body)
			}
		}
	}
	if a.Routes()[0].Auth != web.Admin {
		t.Error("the first route is open")
	}
}

func TestStatusIsTheFleetWithoutIdleSeries(t *testing.T) {
	a := New(deps(func(context.Context) *status.Fleet { return fleetAt(time.Unix(1e9, 0), 10) }))
	answer := webtest.New(t, people, a.Routes()...).As("root").Want(200, "GET "+data+"/status", nil)
	f := &status.Fleet{}
	if err := json.Unmarshal(answer.Body, f); err != nil {
		t.Fatal(err)
	}
	if len(f.Processes) != 2 || len(f.Processes[0].Routes) != 0 || len(f.Processes[1].Routes) != 2 || f.Processes[1].Routes[0].InFlight != 42 {
		t.Errorf("%s", answer.Body)
	}
}

func TestManyPagesCostOneGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		a := New(deps(func(context.Context) *status.Fleet {
			asked.Add(1)
			time.Sleep(100 * time.Millisecond) // of the test's clock
			return fleetAt(time.Now().Add(-time.Hour), 3600)
		}))
		c := webtest.New(t, people, a.Routes()...).As("root")
		look := func() {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { c.Want(200, "GET "+data+"/status", nil) })
			}
			wg.Wait()
		}
		look()
		if n := asked.Load(); n != 1 {
			t.Errorf("ten pages at once asked the fleet %d times", n)
		}
		time.Sleep(maxSampleAge - time.Millisecond)
		look()
		if n := asked.Load(); n != 1 {
			t.Errorf("an answer of less than %v was asked for again", maxSampleAge)
		}
		time.Sleep(time.Millisecond)
		look()
		if n := asked.Load(); n != 2 {
			t.Errorf("after %v the fleet was asked %d times, want 2", maxSampleAge, n)
		}
	})
}

// TestGoneClientDoesNotSpoilTheAnswer holds that a page which is closed takes nothing from the others.
func TestGoneClientDoesNotSpoilTheAnswer(t *testing.T) {
	a := New(deps(func(ctx context.Context) *status.Fleet {
		if ctx.Err() != nil {
			t.Error("the gathering ended with the request")
		}
		return fleetAt(time.Unix(1e9, 0), 10)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, now := a.sample(ctx); now == nil {
		t.Error("no sample")
	}
}

func TestRatesComeFromASampleOfTheLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a := New(deps(func(context.Context) *status.Fleet { return fleetAt(start, time.Since(start).Seconds()) }))
		c := webtest.New(t, people, a.Routes()...).As("root")
		if two := c.Want(200, "GET "+data+"/doctor", nil).Get("findings.0.two").Bool(); two {
			t.Error("the first look has an earlier sample")
		}
		for range 100 {
			time.Sleep(2 * time.Second)
			c.Want(200, "GET "+data+"/status", nil)
		}
		if len(a.history) > 14 {
			t.Errorf("%d samples are kept", len(a.history))
		}
		answer := c.Want(200, "GET "+data+"/doctor", nil)
		if s := answer.Get("seconds").Float(); s < 50 || s > 66 || !answer.Get("findings.0.two").Bool() ||
			answer.Get("findings.0.users").Float() != 42 {
			t.Errorf("%s", answer.Body)
		}
		p := c.Want(200, "GET "+data+"/plan", nil)
		if m := p.Get("load.messages_per_second").Float(); m < 9.99 || m > 10.01 {
			t.Errorf("%v messages per second, want 10", m)
		}
		if u := p.Get("load.uploads_per_day").Float(); u < 8639 || u > 8641 {
			t.Errorf("%v uploads a day, want 8640", u)
		}
		if used := p.Get("used_cores").Float(); used < 0.99 || used > 1.01 {
			t.Errorf("%v cores, want 1", used)
		}
	})
}

func TestRestartsAndLostProcesses(t *testing.T) {
	start := time.Unix(1e9, 0)
	before, after := fleetAt(start, 10), fleetAt(start, 20)
	after.Processes[0].Incarnation = 8 // it began 5 s ago
	after.Processes[0].Started = start.Add(15 * time.Second)
	after.Processes[0].Streams[0].Shards = []status.ProcessShard{{Rows: 25}}
	if l := LoadOf(before, after); l.MessagesPerSecond != 5 {
		t.Errorf("%v messages per second after a restart, want 5", l.MessagesPerSecond)
	}
	after.Processes[1].Error = "it does not answer"
	l := LoadOf(before, after)
	if l.ConcurrentUsers != 0 {
		t.Errorf("a process that does not answer has %v clients", l.ConcurrentUsers)
	}
	if l = LoadOf(before, &status.Fleet{At: start}); l.MessagesPerSecond != leastLoad || l.Validate() != nil {
		t.Errorf("an empty fleet: %+v, %v", l, l.Validate())
	}
}

func TestCompareRoles(t *testing.T) {
	start := time.Unix(1e9, 0)
	before, after := fleetAt(start, 10), fleetAt(start, 20)
	p := &plan.Plan{Shape: "split", Processes: 5, Busy: 1.5, Roles: []plan.RolePlan{
		{
			Role:     "events",
			Replicas: 2,
			Busy:     1,
		}, {Role: "client", Replicas: 1, Busy: 0.2}, {Role: "uploads", Replicas: 0}, {Role: "sync", Replicas: 1, Busy: 0.3},
	}}
	c := Compare(before, after, p)
	if len(c.Rows) != 3 || c.Planned != 5 || c.Running != 2 || c.Used < 0.99 || c.Used > 1.01 || c.Seconds != 10 {
		t.Fatalf("%+v", c)
	}
	events, client := c.Rows[0], c.Rows[1]
	if events.Running != 1 || events.Planned != 2 || events.Used == nil || *events.Used != 0.5 {
		t.Errorf("events: %+v", events)
	}
	if client.Running != 0 || client.Used != nil {
		t.Errorf("client: %+v", client)
	}
	after.Processes[1].Roles = []string{"sync", "client"}
	if c = Compare(before, after, p); c.Planned != 0 || c.Rows[1].Running != 1 || c.Rows[2].Used != nil {
		t.Errorf("processes that share roles: %+v", c)
	}
	whole := &plan.Plan{
		Shape: "one", Processes: 1, Memory: 5, Whole: plan.RolePlan{Role: plan.AllRoles, Replicas: 1, Busy: 0.1, Memory: 5},
		Roles: []plan.RolePlan{{Role: "events", Replicas: 2, Busy: 1}},
	}
	if split := toRunningShape(whole, after); len(split.Effective()) != 1 || split.Effective()[0].Role != "events" || split.Processes != 2 ||
		whole.Processes != 1 {
		t.Errorf("a split fleet is compared with %+v", split)
	}
	after.Processes[1].Roles = []string{plan.AllRoles}
	after.Processes[0].Roles = []string{plan.AllRoles}
	if toRunningShape(whole, after) != whole {
		t.Error("a fleet of whole processes is compared with split roles")
	}
	c = Compare(nil, after, whole)
	if c.Planned != 1 || len(c.Rows) != 1 || c.Rows[0].Running != 2 || c.Rows[0].Used == nil || c.Memory != 5 || c.Seconds != 0 {
		t.Errorf("%+v", c)
	}
}

func TestPageAndFiles(t *testing.T) {
	c := webtest.New(t, people, New(deps(nil)).Routes()...)
	page := c.Want(200, "GET /_lyceum/status", nil)
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": ui.Policy, "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
	} {
		if got := page.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	_, rest, _ := strings.Cut(string(page.Body), `src="`)
	script, _, _ := strings.Cut(rest, `"`)
	js := c.Want(200, "GET "+script, nil)
	if js.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || !strings.Contains(js.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %v", script, js.Header)
	}
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Config: web.Config{Compress: true}})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(New(deps(nil)).Routes()...)
	r := httptest.NewRequestWithContext(t.Context(), "GET", script, nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, r)
	if w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() > len(js.Body)/2 {
		t.Errorf("%s is not compressed: %v, %d bytes", script, w.Header(), w.Body.Len())
	}
	if again := c.Call("GET "+script, nil, `If-None-Match: "x", W/`+js.Header.Get("Etag")); again.Status != 304 || len(again.Body) != 0 {
		t.Errorf("with its tag: %d, %d bytes", again.Status, len(again.Body))
	}
	other := c.Call("GET "+ui.Base+"status.0123456789abcdef.js", nil)
	if other.Status != 200 || other.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("a file of another build: %d %v", other.Status, other.Header)
	}
	for _, name := range []string{"", "nothing", "status.html", "%2e%2e/ui.go"} {
		if answer := c.Call("GET "+ui.Base+name, nil); answer.Status != 404 {
			t.Errorf("%q: %d", name, answer.Status)
		}
	}
}
