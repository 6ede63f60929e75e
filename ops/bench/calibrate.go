package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lyceum/ops/plan"
	"lyceum/platform/obs"
)

// CalibrateOptions say what is measured.
type CalibrateOptions struct {
	Target  *Target  // a server that runs, with the pids of its processes; nil: a private one
	Program string   // the lyceum program, for a private server; "": the program that runs
	Alone   bool     // the private server is one process over SQLite; else each role has a process, over PostgreSQL and Redis
	Quick   bool     // a few seconds in all, for tests: the figures are rough
	Clients int      // that wait in /sync; 0: 1,000
	Dir     string   // for the private server's data; "": a temporary directory
	Environ []string // further settings of the private server, NAME=value
	Command string   // what the user called, for the record
}

// load is what Calibrate runs.
type load struct {
	op, unit, role string
	run            interface {
		Run(context.Context, *Target, io.Writer) (*Result, error)
	}
}

// calibration is one run.
type calibration struct {
	CalibrateOptions
	target *Target
	own    *private // nil for a server that ran before
	out    io.Writer
	caps   *plan.Capacities
	idle   map[string]float64 // cores by part
	before moment
	after  moment
	first  moment
}

// moment is what was read at one time.
type moment struct {
	at       time.Time
	cpu      map[string]float64 // seconds by part
	resident map[string]float64 // bytes by part
	database float64
	redis    float64
	err      error
}

// Calibrate runs every load and divides the CPU seconds that each process took, from /proc, by what was done:
// so other work on the machine slows it down and does not falsify it. A minute or more before it is over it
// tells on w what it does. A private server is stopped and its data removed at the end.
func Calibrate(ctx context.Context, o CalibrateOptions, w io.Writer) (_ *plan.Capacities, err error) {
	w = &locked{out: w}
	c := &calibration{CalibrateOptions: o, target: o.Target, out: w}
	shape := "given server"
	if o.Target == nil {
		if c.Program == "" {
			if c.Program, err = os.Executable(); err != nil {
				return nil, err
			}
		}
		dir, err := os.MkdirTemp(o.Dir, "calibrate")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
			return nil, err
		}
		shape = "fleet: one process for each role, PostgreSQL, Redis"
		if o.Alone {
			shape = "alone: one process, SQLite"
		}
		fmt.Fprintf(w, "starting a private server (%s)\n", shape)
		c.own, err = startPrivate(ctx, c.CalibrateOptions, dir)
		if c.own != nil {
			defer c.own.stop()
		}
		if err != nil {
			return nil, fmt.Errorf("the private server: %w", err)
		}
		c.target = &Target{URL: c.own.url}
	} else if len(o.Target.PIDs) == 0 {
		return nil, errors.New("calibrate needs the process ids of the server: give --pid, on the server's own machine")
	}
	c.caps = &plan.Capacities{
		Measured: plan.Provenance{
			At: time.Now().UTC().Truncate(time.Second), CPU: cpuModel(), Cores: runtime.NumCPU(), Version: obs.Version, Shape: shape,
			Command: o.Command, Quick: o.Quick,
		},
		Operations: map[string]plan.Operation{}, Processes: map[string]plan.Process{}, ClientBytes: map[string]float64{}, Connections: 16,
	}
	began := time.Now()
	if err := c.all(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "done in %.0f s\n", time.Since(began).Seconds())
	return c.caps, nil
}

func (c *calibration) loads() []load {
	d, users, megabyte, megapixels, clients := 6*time.Second, 8, 1<<20, 12, cmp.Or(c.Clients, 1000)
	if c.Quick {
		d, users, megapixels, clients = 400*time.Millisecond, 3, 1, cmp.Or(c.Clients, 20)
	}
	size, rate, rooms := 25, float64(clients)/25, 20
	small := func(kind string) Small { return Small{Kind: kind, Users: users, Duration: d} }
	upload, download, thumbnail := small("upload"), small("download"), small("thumbnail")
	upload.Size, download.Size, thumbnail.Size = megabyte, megabyte, megapixels
	upload.Users, download.Users, thumbnail.Users = 4, 4, 2
	send, initial := Send{Senders: users, Rooms: rooms, Duration: d}, Initial{Rooms: rooms, Messages: 20, Times: 40, Lazy: true}
	if c.Quick {
		send.Rooms, initial = 2, Initial{Rooms: 2, Messages: 2, Times: 3}
	}
	return []load{
		{plan.OpMessage, "message", "events", send},
		{plan.OpDelivery, "delivery to a waiting client", "sync", CCU{Clients: clients, RoomSize: size, Rate: rate, Duration: 2 * d}},
		{plan.OpFirstSync, fmt.Sprintf("first sync of a user in %d rooms", initial.Rooms), "sync", initial},
		{plan.OpRoom, "room made", "events", Rooms{Users: users, Duration: d}},
		{plan.OpJoin, "join", "events", Rooms{Users: users, Duration: d, Join: true}},
		{plan.OpRequest, "request that reads", "client", small("request")},
		{plan.OpReceipt, "read receipt", "receipts", small("receipt")},
		{plan.OpTyping, "typing notice", "typing", small("typing")},
		{plan.OpPresence, "change of presence", "presence", small("presence")},
		{plan.OpToDevice, "message between devices", "todevice", small("to_device")},
		{plan.OpAccountData, "change of account data", "accountdata", small("account_data")},
		{plan.OpUpload, "upload of 1 MiB", "media", upload},
		{plan.OpDownload, "download of 1 MiB", "media", download},
		{plan.OpThumbnail, fmt.Sprintf("first thumbnail of a JPEG of %d megapixels", megapixels), "media", thumbnail},
	}
}

func (c *calibration) all(ctx context.Context) error {
	c.target.started = func() func() {
		c.before = c.now(ctx)
		return func() { c.after = c.now(ctx) }
	}
	defer func() { c.target.started = nil }()
	if err := c.rest(ctx); err != nil {
		return err
	}
	loads := c.loads()
	for i, l := range loads {
		fmt.Fprintf(c.out, "[%2d/%d] %s\n", i+1, len(loads), l.unit)
		before := c.now(ctx)
		r, err := l.run.Run(ctx, c.target, quiet{c.out})
		if err != nil {
			return fmt.Errorf("%s: %w", l.op, err)
		}
		if r.Check != "ok" {
			return fmt.Errorf("%s: the check failed: %s", l.op, r.Check)
		}
		if err := errors.Join(c.before.err, c.after.err, before.err); err != nil {
			return err
		}
		if l.op == plan.OpDelivery {
			c.deliveries(l, r, before)
		} else {
			c.divide(l, r, float64(r.Done), r.Done, nil)
		}
		if l.op == plan.OpMessage {
			c.listening(r)
		}
	}
	for part := range c.first.cpu {
		if part != plan.Database && part != plan.Redis {
			c.caps.Processes[part] = plan.Process{IdleCPU: round(c.idle[part]), Resident: c.after.resident[part]}
		}
	}
	return nil
}

// rest measures what the processes do when there is nothing to do.
func (c *calibration) rest(ctx context.Context) error {
	wait := 5 * time.Second
	if c.Quick {
		wait = 500 * time.Millisecond
	}
	fmt.Fprintf(c.out, "at rest for %s\n", wait)
	select {
	case <-time.After(wait / 2): // what a start leaves behind
	case <-ctx.Done():
		return ctx.Err()
	}
	c.first = c.now(ctx)
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return ctx.Err()
	}
	end := c.now(ctx)
	c.idle = map[string]float64{}
	for part, cpu := range end.cpu {
		c.idle[part] = max(0, cpu-c.first.cpu[part]) / end.at.Sub(c.first.at).Seconds()
	}
	return errors.Join(c.first.err, end.err)
}

// divide takes the cost of one operation from what was read before and after the load. less is subtracted
// from the CPU milliseconds of each part: what other operations of the same load cost.
func (c *calibration) divide(l load, r *Result, n float64, count int64, less map[string]float64) {
	took := c.after.at.Sub(c.before.at).Seconds()
	op := plan.Operation{Unit: l.unit, Role: l.role, CPU: map[string]float64{}, Count: count, P50: r.Latency["p50"], P95: r.Latency["p95"]}
	total, spent := 0.0, map[string]float64{}
	for part, end := range c.after.cpu {
		spent[part] = max(0, 1000*(end-c.before.cpu[part]-c.idle[part]*took)-less[part])
		total += spent[part]
	}
	for part, v := range spent {
		if v >= total/100 { // less is noise: /proc counts in steps of 10 ms
			op.CPU[part] = round(v / max(1, n))
		}
	}
	if own := cmp.Or(op.CPU[l.role], op.CPU[plan.AllRoles]); own > 0 {
		op.PerCore = round(1000 / own)
	}
	op.DatabaseBytes = math.Round(max(0, c.after.database-c.before.database) / max(1, n))
	op.RedisBytes = math.Round(max(0, c.after.redis-c.before.redis) / max(1, n))
	c.caps.Operations[l.op] = op
	fmt.Fprintf(c.out, "        %d in %.1f s; CPU of one: %s\n", count, took, costs(op.CPU))
}

// deliveries takes the cost of a delivery and the memory of a waiting client from the load of waiting clients.
func (c *calibration) deliveries(l load, r *Result, before moment) {
	sent, _ := r.Settings["sent"].(int64)
	less := map[string]float64{}
	for part, v := range c.caps.Operations[plan.OpMessage].CPU {
		less[part] = v * float64(sent)
	}
	n := max(1, r.Deliveries)
	c.divide(l, r, float64(n), n, less)
	op := c.caps.Operations[l.op]
	op.DatabaseBytes, op.RedisBytes = 0, 0 // they are the messages'
	// Messages that come one by one cost their writers and the engines more than in the closed loop, where
	// many share a commit. That is not the deliveries' either: they are made by sync and router alone.
	maps.DeleteFunc(op.CPU, func(part string, _ float64) bool {
		return part != "sync" && part != "router" && part != plan.AllRoles
	})
	if len(op.CPU) == 0 { // too few to be seen in /proc
		op.CPU["sync"] = 0
	}
	if bytes, ok := r.Settings["answer_bytes"].(int64); ok {
		op.AnswerBytes = math.Round(float64(bytes) / float64(n))
	}
	c.caps.Operations[l.op] = op
	clients, _ := r.Settings["clients"].(int)
	for _, part := range []string{"sync", "router", plan.AllRoles} {
		if now, ok := c.before.resident[part]; ok { // when the load began, the clients waited
			c.caps.ClientBytes[part] = math.Round(max(0, now-before.resident[part]) / float64(max(1, clients)))
		}
	}
}

// listening takes the cost of a message for those who only hear of it from the roles that it does not concern.
func (c *calibration) listening(r *Result) {
	bystanders := []string{"receipts", "typing", "presence", "todevice", "accountdata", "devicelists", "media"}
	sum, n := 0.0, 0
	for _, part := range bystanders {
		if _, ok := c.after.cpu[part]; ok {
			sum += max(0, c.after.cpu[part]-c.before.cpu[part]-c.idle[part]*c.after.at.Sub(c.before.at).Seconds())
			n++
		}
	}
	if n > 0 {
		c.caps.Listening = round(1000 * sum / float64(n) / max(1, float64(r.Done)))
		fmt.Fprintf(c.out, "        a process that does not need a message spends %.4f ms on it\n", c.caps.Listening)
	}
}

// now reads CPU times, memory and sizes.
func (c *calibration) now(ctx context.Context) moment {
	m := moment{at: time.Now(), cpu: map[string]float64{}, resident: map[string]float64{}}
	parts := map[string][]int{plan.AllRoles: c.target.PIDs}
	if c.own != nil {
		parts = map[string][]int{}
		for role, pid := range c.own.pids {
			parts[role] = []int{pid}
		}
		if c.own.pg != nil {
			parts[plan.Database], parts[plan.Redis] = []int{c.own.pg.Pid()}, []int{c.own.redis.Pid()}
		}
		var err error
		m.database, err = c.own.databaseBytes(ctx)
		m.err = errors.Join(m.err, err)
		m.redis, err = c.own.redisBytes()
		m.err = errors.Join(m.err, err)
	}
	children := descendants()
	for part, pids := range parts {
		for _, pid := range pids {
			cpu, rss := tree(pid, children)
			m.cpu[part] += cpu
			m.resident[part] += rss
		}
	}
	return m
}

// descendants lists the children of each process of the machine.
func descendants() map[int][]int {
	out := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return out // no Linux: the processes themselves are counted
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields := statFields(pid); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			out[parent] = append(out[parent], pid)
		}
	}
	return out
}

// statFields are those of /proc/PID/stat after the name: state, parent, ... (proc(5)).
func statFields(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // it ended
	}
	_, rest, _ := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), ")")
	return strings.Fields(rest)
}

// tree is what a process, its children and those that ended took: CPU seconds, and resident bytes of itself.
func tree(pid int, children map[int][]int) (cpu, resident float64) {
	if fields := statFields(pid); len(fields) > 14 {
		for _, f := range fields[11:15] { // user, system, and both of children that ended
			ticks, _ := strconv.ParseFloat(f, 64)
			cpu += ticks / clockTicks
		}
	}
	for _, child := range children[pid] {
		more, _ := tree(child, children)
		cpu += more
	}
	return cpu, rssMiB([]int{pid}) * (1 << 20)
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

// round keeps three digits: more would pretend to know.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	p := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*p) / p
}

func costs(cpu map[string]float64) string {
	var parts []string
	for _, part := range slices.SortedFunc(maps.Keys(cpu), func(a, b string) int { return cmp.Compare(cpu[b], cpu[a]) }) {
		if len(parts) < 5 {
			parts = append(parts, fmt.Sprintf("%s %.3g ms", part, cpu[part]))
		}
	}
	return strings.Join(parts, ", ")
}

// locked lets many goroutines of a load write to one writer.
type locked struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// quiet passes on what a load says of its progress, and not every second of it.
type quiet struct{ out io.Writer }

func (q quiet) Write(p []byte) (int, error) {
	if len(p) > 0 && (p[0] == '\r' || p[0] == '\n') {
		return q.out.Write(p)
	}
	return len(p), nil
}
