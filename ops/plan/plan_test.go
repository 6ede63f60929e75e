package plan

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// roles are as in the fleet's table.
var roles = []Role{
	{Name: "router"},
	{Name: "client"},
	{Name: "sync"},
	{Name: "events", Stream: "events", Shards: 64},
	{Name: "receipts", Stream: "receipts"},
	{Name: "typing", Stream: "typing"},
	{Name: "presence", Stream: "presence"},
	{Name: "todevice", Stream: "to_device"},
	{Name: "accountdata", Stream: "account_data"},
	{Name: "devicelists", Stream: "device_lists"},
	{Name: "push"},
	{Name: "media"},
	{Name: "uploads", Pool: "media"},
	{Name: "downloads", Pool: "media"},
	{Name: "thumbnails", Pool: "media"},
	{Name: "admin", Pool: "client"},
}

// TestGuideReproducesEveryExample holds the guides' figures: what the formula gives, what the example says, and
// whether they contradict each other.
func TestGuideReproducesEveryExample(t *testing.T) {
	want := []struct {
		worker, at  string
		value       float64
		example     string
		contradicts bool
	}{
		{"synchrotron", "100 CCU", 1, "2", true},
		{"synchrotron", "1,000 CCU", 4, "4", false},
		{"synchrotron", "5,000 CCU", 20, "8", true},
		{"synchrotron", "10,000 CCU", 40, "12", true},
		{"synchrotron", "20,000 CCU", 80, "16", true},
		{"generic worker", "100 CCU", 1, "2", true},
		{"generic worker", "1,000 CCU", 4, "4", false},
		{"generic worker", "5,000 CCU", 17, "6", true},
		{"generic worker", "10,000 CCU", 34, "8", true},
		{"generic worker", "20,000 CCU", 67, "10", true},
		{"event persister", "100 CCU, 10 msg/s", 2, "2", false},
		{"event persister", "1,000 CCU, 50 msg/s", 2, "2", false},
		{"event persister", "5,000 CCU, 200 msg/s", 4, "3", true},
		{"event persister", "10,000 CCU, 400 msg/s", 8, "4", true},
		{"event persister", "20,000 CCU, 800 msg/s", 16, "4", true},
		{"federation sender", "federation disabled", 0, "0", false},
		{"federation sender", "1 servers", 2, "2", false},
		{"federation sender", "50 servers", 2, "2", false},
		{"federation sender", "100 servers", 2, "2", false},
		{"federation sender", "200 servers", 4, "4", false},
		{"federation sender", "500+ servers", 10, "6+", false},
		{"media repository", "100 CCU", 2, "2", false},
		{"media repository", "1,000 CCU", 2, "2", false},
		{"media repository", "5,000 CCU", 5, "2-3", true},
		{"media repository", "10,000 CCU", 10, "3", true},
		{"media repository", "20,000 CCU", 20, "4", true},
		{"typing writer", "20,000 CCU", 4, "2", true},
		{"to-device writer", "20,000 CCU", 20, "4", true},
		{"receipts writer", "20,000 CCU", 10, "3", true},
		{"presence writer", "20,000 CCU", 7, "3", true},
		{"synchrotron", "phase 1: 100-1,000 CCU", 1, "2-4", true},
		{"synchrotron", "phase 2: 1,000-5,000 CCU", 4, "4-8", true},
		{"synchrotron", "phase 3: 5,000-10,000 CCU", 20, "8-12", true},
		{"synchrotron", "phase 4: 10,000-20,000 CCU", 40, "12-16", true},
		{"generic worker", "phase 1: 100-1,000 CCU", 1, "2-4", true},
		{"generic worker", "phase 2: 1,000-5,000 CCU", 4, "4-6", true},
		{"generic worker", "phase 3: 5,000-10,000 CCU", 17, "6-8", true},
		{"generic worker", "phase 4: 10,000-20,000 CCU", 34, "8-10", true},
		{"event persister", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"event persister", "phase 2: 1,000-5,000 CCU", 2, "2-3", true},
		{"event persister", "phase 3: 5,000-10,000 CCU", 4, "3-4", true},
		{"event persister", "phase 4: 10,000-20,000 CCU", 8, "4", true},
		{"federation sender", "phase 1: 100-1,000 CCU", 0, "2", false},
		{"federation sender", "phase 2: 1,000-5,000 CCU", 0, "2-4", false},
		{"federation sender", "phase 3: 5,000-10,000 CCU", 0, "4", false},
		{"federation sender", "phase 4: 10,000-20,000 CCU", 0, "4-6", false},
		{"media repository", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"media repository", "phase 2: 1,000-5,000 CCU", 2, "2-3", true},
		{"media repository", "phase 3: 5,000-10,000 CCU", 5, "3", true},
		{"media repository", "phase 4: 10,000-20,000 CCU", 10, "3-4", true},
		{"typing writer", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"typing writer", "phase 2: 1,000-5,000 CCU", 2, "2", false},
		{"typing writer", "phase 3: 5,000-10,000 CCU", 2, "2-3", true},
		{"typing writer", "phase 4: 10,000-20,000 CCU", 2, "3-4", true},
		{"to-device writer", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"to-device writer", "phase 2: 1,000-5,000 CCU", 2, "2", true},
		{"to-device writer", "phase 3: 5,000-10,000 CCU", 5, "2-3", true},
		{"to-device writer", "phase 4: 10,000-20,000 CCU", 10, "3-4", true},
		{"receipts writer", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"receipts writer", "phase 2: 1,000-5,000 CCU", 2, "2", true},
		{"receipts writer", "phase 3: 5,000-10,000 CCU", 3, "2-3", true},
		{"receipts writer", "phase 4: 10,000-20,000 CCU", 5, "3-4", true},
		{"presence writer", "phase 1: 100-1,000 CCU", 2, "2", false},
		{"presence writer", "phase 2: 1,000-5,000 CCU", 2, "2", false},
		{"presence writer", "phase 3: 5,000-10,000 CCU", 2, "2-3", true},
		{"presence writer", "phase 4: 10,000-20,000 CCU", 4, "3-4", true},
		{"media process", "1,736 hosted servers", 4, "4", false},
		{"one server", "about 5 concurrent users", 2, "2", false},
		{"one server", "about 5 concurrent users", 3, "3", false},
		{"one server", "300 users", 32, "7", true},
		{"one server", "300 users", 33, "8", true},
		{"one server", "300 users, 30 of whom compile", 5, "7", false},
		{"one server", "300 users, 30 of whom compile", 6, "8", false},
		{"one server", "300 users, 60 of whom compile", 8, "7", true},
		{"one server", "300 users, 60 of whom compile", 9, "8", true},
		{"one server", "1,000 users in all", 102, "8", true},
		{"one server", "1,000 users in all", 103, "32", true},
	}
	got := GuideExamples()
	if len(got) != len(want) {
		t.Fatalf("%d examples, expected %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Worker != w.worker || g.At != w.at || g.Value != w.value || g.Example != w.example || g.Contradicts != w.contradicts {
			t.Errorf("example %d: %s at %s: formula %v, example %s, contradicts %v; expected %+v", i, g.Worker, g.At, g.Value, g.Example,
				g.Contradicts, w)
		}
		if g.Contradicts && g.Note == "" {
			t.Errorf("%s at %s contradicts and says not why", g.Worker, g.At)
		}
	}
}

func TestGuideShowsTheExampleOfJustThisLoad(t *testing.T) {
	find := func(l Load, worker string) GuideRow {
		for _, r := range Guide(l) {
			if r.Worker == worker {
				return r
			}
		}
		t.Fatalf("no row for %s", worker)
		return GuideRow{}
	}
	if r := find(Load{ConcurrentUsers: 5000}, "synchrotron"); r.Value != 20 || r.Example != "8" || !r.Contradicts {
		t.Errorf("5,000 users: %+v", r)
	}
	if r := find(Load{ConcurrentUsers: 5001}, "synchrotron"); r.Value != 21 || r.Example != "" || r.Contradicts {
		t.Errorf("5,001 users: %+v", r)
	}
	if r := find(Load{ConcurrentUsers: 5000, MessagesPerSecond: 60}, "event persister"); r.Value != 2 || r.Example != "" {
		t.Errorf("the example is for 200 messages/s, not for 60: %+v", r)
	}
	if r := find(Load{ConcurrentUsers: 10, HostedServers: 1736}, "media process"); r.Value != 4 || r.Example != "4" {
		t.Errorf("1,736 servers: %+v", r)
	}
	if r := find(Load{ConcurrentUsers: 10, HostedServers: 501}, "media process"); r.Value != 2 {
		t.Errorf("501 servers: %+v", r)
	}
	if r := find(Load{ConcurrentUsers: 10, FederatedServers: 900}, "federation sender"); r.Value != 18 || r.Example != "6+" {
		t.Errorf("900 federated servers: %+v", r)
	}
	if r := find(Load{Editors: 30}, "one server"); r.Value != 5 || r.High != 7 {
		t.Errorf("30 editors: %+v", r)
	}
}

func TestMessagesAreInterpolated(t *testing.T) {
	for users, want := range map[float64]float64{
		0: 0, 50: 5, 100: 10, 550: 30, 1000: 50, 3000: 125, 5000: 200, 10000: 400, 20000: 800,
		100000: 4000,
	} {
		if got := GuideMessages(users); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v users: %v messages/s, expected %v", users, got, want)
		}
	}
	p := Make(Load{ConcurrentUsers: 3000}, Default(), roles)
	if p.Load.MessagesPerSecond != 125 || !strings.Contains(strings.Join(p.Derived, "\n"), "125 messages/s: interpolated") {
		t.Errorf("not derived, or not said: %v", p.Derived)
	}
	if p := Make(Load{ConcurrentUsers: 3000, MessagesPerSecond: 7}, Default(), roles); strings.Contains(strings.Join(p.Derived, "\n"),
		"interpolated") {
		t.Error("a given figure is said to be derived")
	}
}

func TestPhasesAreTheGuides(t *testing.T) {
	for users, want := range map[float64]int{1: 1, 999: 1, 1000: 2, 4999: 2, 5000: 3, 10000: 4, 20000: 4, 20001: 5} {
		if n, _ := Phase(users); n != want {
			t.Errorf("%v users: phase %d, expected %d", users, n, want)
		}
	}
}

// simple are capacities of round figures.
func simple() *Capacities {
	return &Capacities{
		Connections: 16, Listening: 0.01,
		Operations: map[string]Operation{
			OpMessage: {
				Unit: "message", Role: "events", CPU: map[string]float64{"events": 1, "router": 0.5, Database: 0.5, Redis: 0.1},
				DatabaseBytes: 1000, RedisBytes: 5000,
			},
			OpDelivery:  {Unit: "delivery", Role: "sync", CPU: map[string]float64{"sync": 0.2, "router": 0.2}, AnswerBytes: 500},
			OpRequest:   {Unit: "request", Role: "client", CPU: map[string]float64{"client": 1}},
			OpUpload:    {Unit: "upload", Role: "media", CPU: map[string]float64{"media": 10}},
			OpThumbnail: {Unit: "thumbnail", Role: "media", CPU: map[string]float64{"media": 500}},
		},
		Processes:   map[string]Process{"sync": {Resident: 100 * mib}, "events": {Resident: 50 * mib}},
		ClientBytes: map[string]float64{"sync": 100 * 1024},
	}
}

func roleOf(t *testing.T, p *Plan, name string) RolePlan {
	t.Helper()
	for _, r := range p.Roles {
		if r.Role == name {
			return r
		}
	}
	t.Fatalf("no role %s", name)
	return RolePlan{}
}

func TestMakeByHand(t *testing.T) {
	l := Load{
		ConcurrentUsers: 10000, MessagesPerSecond: 1000, UploadsPerDay: 86400, UploadSize: 1 << 20, Cores: 2,
		Habits: Habits{
			Audience: 10, Receipts: 1, Typing: 1, ToDevice: 1e-9, PresenceEvery: 1e12, Requests: 0.1, Settings: 1e-9, Thumbnails: 1,
			PeakFactor: 3, Downloads: 1e-9,
		},
	}
	p := Make(l, simple(), roles)
	// 1,000 messages × (1 + 1 + 1) × 10 = 30,000 deliveries/s at 0.2 ms: 6 cores. Each process hears 3,000 rows/s
	// at 0.01 ms: 0.03 cores. 6 / (1.3 - 0.03) = 4.7 processes.
	s := roleOf(t, p, "sync")
	if s.Replicas != 5 || math.Abs(s.Busy-(6+5*0.03)) > 1e-6 {
		t.Errorf("sync: %+v", s)
	}
	// 10,000 clients × 100 KiB × 1.5 / 5 = 293 MiB, 133 MiB at rest, 256 MiB held for slow clients and 200 MiB that are being built: 896
	// MiB in steps of 64.
	if s.Memory != 896*mib {
		t.Errorf("sync memory: %v MiB", s.Memory/mib)
	}
	// 1 core of messages / (1.3 - 0.02).
	if e := roleOf(t, p, "events"); e.Replicas != 2 || e.CPU != 0.85 {
		t.Errorf("events: %+v", e)
	}
	// 3 thumbnails/s at 500 ms are 1.5 cores: a pool of their own, and none of it is left to media.
	if x := roleOf(t, p, "thumbnails"); x.Replicas != 2 || x.Busy < 1.5 {
		t.Errorf("thumbnails: %+v", x)
	}
	if m := roleOf(t, p, "media"); m.Busy > 0.2 {
		t.Errorf("media does the thumbnails too: %+v", m)
	}
	if u := roleOf(t, p, "uploads"); u.Replicas != 0 || !strings.Contains(u.Why, "media") {
		t.Errorf("uploads: %+v", u)
	}
	// 1,000 messages/s at 1,000 bytes, a third of it in the mean.
	if want := 1000.0 * 1000 / 3 * month; math.Abs(p.Database.GrowthPerMonth-want) > 1 {
		t.Errorf("growth %v, expected %v", p.Database.GrowthPerMonth, want)
	}
	if want := 86400.0 * 30 * (1 << 20) * 1.1; math.Abs(p.Blob.GrowthPerMonth-want) > 1 {
		t.Errorf("blobs %v, expected %v", p.Blob.GrowthPerMonth, want)
	}
	if p.Database.MaxConnections < p.Processes*p.Database.Connections+3 {
		t.Errorf("%d connections for %d processes of %d", p.Database.MaxConnections, p.Processes, p.Database.Connections)
	}
	if want := 8 * (30000*500.0 + 3*1e-9*(1<<20)); math.Abs(p.Network.Out-want) > 1000 {
		t.Errorf("out %v bit/s, expected %v", p.Network.Out, want)
	}
}

func TestAShapeForEachSize(t *testing.T) {
	for users, want := range map[float64]string{10: "one", 100: "one", 1000: "whole", 5000: "split", 20000: "split"} {
		p := Make(Load{ConcurrentUsers: users}, Default(), roles)
		if p.Shape != want {
			t.Errorf("%v users: shape %s, expected %s: %s", users, p.Shape, want, p.Advice)
		}
		if users < 1000 != strings.Contains(p.Advice, "One process is enough") {
			t.Errorf("%v users: %s", users, p.Advice)
		}
		for _, r := range p.Roles {
			pool := slices.Contains([]string{"uploads", "downloads", "thumbnails", "admin"}, r.Role)
			if users >= 1000 && r.Replicas < 2 && !pool {
				t.Errorf("%v users: %s has %d processes: one that fails would be missed", users, r.Role, r.Replicas)
			}
		}
		if p.Shape == "whole" && p.Replicas("events") != p.Whole.Replicas {
			t.Error("in the whole shape every process has every role")
		}
	}
}

func TestShardsLimitProcesses(t *testing.T) {
	p := Make(Load{ConcurrentUsers: 1000, MessagesPerSecond: 20000, Cores: 2}, simple(), []Role{{Name: "events", Stream: "events", Shards: 4}})
	if r := roleOf(t, p, "events"); r.Replicas != 4 || !strings.Contains(r.Why, "4 shards") {
		t.Errorf("%+v", r)
	}
}

func TestWhatTheBuildDoesNotHaveIsSaid(t *testing.T) {
	l := Load{ConcurrentUsers: 100, FederatedServers: 10, Editors: 5, Compiles: 2}
	if n := strings.Join(Make(l, Default(), roles).Notes, "\n"); !strings.Contains(n, "federated servers") ||
		!strings.Contains(n, "5 editors") || !strings.Contains(n, "2 compiles") {
		t.Error(n)
	}
	more := append(slices.Clone(roles), Role{Name: "federation"}, Role{Name: "projects", Stream: "documents"}, Role{Name: "compile"})
	p := Make(l, Default(), more)
	if n := strings.Join(p.Notes, "\n"); !strings.Contains(n, "not measured") || strings.Contains(n, "no role") {
		t.Error(n)
	}
	if r := roleOf(t, p, "compile"); r.Busy < 2 || r.Replicas < 2 {
		t.Errorf("two compiles at once: %+v", r)
	}
}

func TestLoadsThatCanNotBeAreRefused(t *testing.T) {
	for _, l := range []Load{{ConcurrentUsers: -1}, {UploadSize: math.NaN()}, {Compiles: math.Inf(1)}} {
		if _, err := NewReport(l, Default(), roles); err == nil {
			t.Errorf("%+v is taken", l)
		}
	}
}

// TestMoreLoadNeverNeedsLess holds for every role and engine, as long as the size of a process is given.
func TestMoreLoadNeverNeedsLess(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := Load{
			ConcurrentUsers:   rapid.Float64Range(1, 50000).Draw(rt, "users"),
			MessagesPerSecond: rapid.Float64Range(1, 2000).Draw(rt, "messages"),
			UploadsPerDay:     rapid.Float64Range(1, 1e5).Draw(rt, "uploads"), Cores: 4,
		}
		more := l.scale(l.ConcurrentUsers * rapid.Float64Range(1, 3).Draw(rt, "factor"))
		a, b := Make(l, Default(), roles), Make(more, Default(), roles)
		for i := range a.Roles {
			x, y := a.Roles[i], b.Roles[i]
			if x.Replicas > 0 && y.Busy+1e-9 < x.Busy && x.Role != "media" {
				rt.Errorf("%s: %v busy cores, at more load %v", x.Role, x.Busy, y.Busy)
			}
			if x.Replicas > 0 && x.Busy/float64(x.Replicas) > x.CPU*Target+1e-9 {
				rt.Errorf("%s: %d × %v cores do not carry %v", x.Role, x.Replicas, x.CPU, x.Busy)
			}
		}
		if b.Database.CPU < a.Database.CPU || b.Database.GrowthPerMonth < a.Database.GrowthPerMonth ||
			b.Blob.GrowthPerMonth < a.Blob.GrowthPerMonth {
			rt.Errorf("engines shrink: %+v %+v", a.Database, b.Database)
		}
	})
}

func TestReportsAreWhole(t *testing.T) {
	r, err := NewReport(Load{ConcurrentUsers: 7000, FederatedServers: 200, HostedServers: 1736}, Default(), roles)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Steps) != len(Steps)+1 || r.Steps[3].Load.ConcurrentUsers != 7000 {
		t.Errorf("%d sizes", len(r.Steps))
	}
	for name, write := range map[string]func(io.Writer) error{"text": r.Text, "markdown": r.Markdown, "json": r.JSON, "svg": r.SVG} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for _, bad := range []string{"NaN", "Inf", "%!", "\t"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", name, bad)
			}
		}
		switch name {
		case "svg":
			d := xml.NewDecoder(&b)
			for {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("svg: %v", err)
				}
			}
			if strings.Contains(text, "<script") || !strings.Contains(text, "prefers-color-scheme") {
				t.Error("svg: a script, or no dark colours")
			}
		case "text":
			for _, want := range []string{"PLAN FOR 7,000", "events", "contradicts", "7,000 users", "measured by", "max_connections"} {
				if !strings.Contains(text, want) {
					t.Errorf("text lacks %q", want)
				}
			}
			aligned(t, text)
		}
	}
}

// aligned holds that the columns of the table of processes start at the same place in every row.
func aligned(t *testing.T, text string) {
	t.Helper()
	_, rest, _ := strings.Cut(text, "\n  role ")
	head, body, _ := strings.Cut("  role "+rest, "\n")
	at := strings.Index(head, "why")
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "  -") {
			return
		}
		if r := []rune(line); r[at-1] != ' ' || r[at] == ' ' {
			t.Errorf("column \"why\" is not at %d: %q", at, line)
		}
	}
}

func TestCapacitiesAreReadBackAndChecked(t *testing.T) {
	var b bytes.Buffer
	if err := Default().Write(&b); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadCapacities(&b); err != nil || c.Measured.CPU != Default().Measured.CPU {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "{}", `{"operations":{"message":{"cpu_ms":{"all":1}}}}`} {
		if _, err := ReadCapacities(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "calibrate") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSizesThatWereNotMeasuredAreTheReleases holds that a plan from a server that was given grows all the same.
func TestSizesThatWereNotMeasuredAreTheReleases(t *testing.T) {
	c := simple()
	m := c.Operations[OpMessage]
	m.DatabaseBytes = 0
	c.Operations[OpMessage] = m
	p := Make(Load{ConcurrentUsers: 1000}, c, roles)
	if p.Database.GrowthPerMonth == 0 || !strings.Contains(strings.Join(p.Notes, "\n"), "growth of the database was not measured") {
		t.Errorf("%v %v", p.Database.GrowthPerMonth, p.Notes)
	}
	if n := Make(Load{ConcurrentUsers: 1000}, simple(), roles).Notes; strings.Contains(strings.Join(n, "\n"), "not measured") {
		t.Errorf("%v", n)
	}
}

// TestOneProcessPassesNothingOn holds that the cost of hops is only there where there is somebody to hop to.
func TestOneProcessPassesNothingOn(t *testing.T) {
	l := Load{ConcurrentUsers: 500, MessagesPerSecond: 20, Cores: 4}
	one := Make(l, Default(), roles)
	if one.Whole.Replicas != 1 {
		t.Fatalf("%+v", one.Whole)
	}
	router := roleOf(t, one, "router")
	split := 0.0
	for _, r := range one.Roles {
		split += r.Busy
	}
	if one.Whole.Busy > split-router.Busy+0.1 {
		t.Errorf("one process: %v busy cores; each role its own: %v, routers %v of them", one.Whole.Busy, split, router.Busy)
	}
}

func TestCostsOfOneProcessAreTheServingRoles(t *testing.T) {
	c := simple()
	c.Operations[OpMessage] = Operation{Role: "events", CPU: map[string]float64{AllRoles: 2}}
	if c.cost(OpMessage, "events") != 2 || c.cost(OpMessage, "router") != 0 {
		t.Error("the whole cost must be the serving role's, once")
	}
}

func TestNumbersReadWell(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1234567: "1,234,567", 1: "1", 0.05: "0.05", 0.0123: "0.012", 3.14159: "3.14",
		31.4159: "31.4", 314.159: "314", -1500: "-1,500", 999: "999",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, expected %s", v, got, want)
		}
	}
	if got := fmt.Sprint(size(1536*1024), " ", size(512), " ", size(20*gib)); got != "1.5 MiB 512 B 20 GiB" {
		t.Error(got)
	}
}

// TestThereIsAMostALoadCanBe: what is beyond it is refused, and a plan for the most ends.
func TestThereIsAMostALoadCanBe(t *testing.T) {
	for _, l := range []Load{
		{ConcurrentUsers: 1e12},
		{ConcurrentUsers: 1e300},
		{ConcurrentUsers: 1e-9},
		{ConcurrentUsers: 100, MessagesPerSecond: 1e12},
		{ConcurrentUsers: math.NaN()},
		{ConcurrentUsers: 100, Cores: 1e-9},
		{ConcurrentUsers: math.Inf(1)},
		{ConcurrentUsers: 100, Editors: -1},
	} {
		if _, err := NewReport(l, Default(), roles); err == nil || !strings.Contains(err.Error(), "expected 0, or a number from") {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for _, l := range []Load{
		{ConcurrentUsers: 1e9, MessagesPerSecond: 1e9, Cores: 0.01, Editors: 1e9},
		{ConcurrentUsers: 1, MessagesPerSecond: 1e9, Cores: 0.01},
	} {
		r, err := NewReport(l, Default(), roles)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range append(r.Steps, r.Plan) {
			if p.Whole.Replicas < 1 || p.Processes < 1 {
				t.Errorf("%+v: %+v", l, p)
			}
		}
	}
}
