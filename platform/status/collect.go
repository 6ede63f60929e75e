package status

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
)

// sampleMethod is the internal call that gives a sample.
const sampleMethod = "status/sample"

// enginesMethod is the internal call that gives the state of the engines.
const enginesMethod = "status/engines"

// Engines are the database, Redis and the blob store of a fleet.
type Engines struct {
	Database Engine `json:"database"`
	Redis    Engine `json:"redis"`
	Blob     Engine `json:"blob"`
}

// sampleWait is how long a process has to answer.
const sampleWait = 3 * time.Second

// Collector samples this process.
type Collector struct {
	Process  *role.Process
	Gatherer prometheus.Gatherer
	Ready    func() bool
	Public   string // addresses of the listeners, as configured
	Internal string
	Ops      string
	Scratch  string // directory whose file system is looked at
	// Untrusted are the addresses that passed requests on and are no trusted proxies; may be nil.
	Untrusted func() []string
	// Engines asks the database, Redis and the blob store how they are.
	Engines func(ctx context.Context) Engines
}

// Serve answers the other processes; once, before the process serves.
func (c *Collector) Serve() {
	if c.Process.RPC != nil {
		rpc.Handle(c.Process.RPC, sampleMethod, func(ctx context.Context, _ struct{}) (Sample, error) { return c.Sample(ctx), nil })
		rpc.Handle(c.Process.RPC, enginesMethod, func(ctx context.Context, _ struct{}) (Engines, error) { return c.Engines(ctx), nil })
	}
}

// Sample is what this process tells of itself now.
func (c *Collector) Sample(ctx context.Context) Sample {
	s := c.lease(c.Process.Leases.Self())
	s.At = time.Now()
	s.Ready = c.Ready()
	s.Goroutines = runtime.NumGoroutine()
	s.CPUs = float64(runtime.GOMAXPROCS(0))
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		s.MemoryLimit = limit
	}
	s.Public, s.Internal, s.Ops = c.Public, c.Internal, c.Ops
	s.Scratch, s.ScratchFree = FileSystem(c.Scratch)
	if c.Untrusted != nil {
		s.Untrusted = c.Untrusted()
	}
	stats := c.Process.DB.Stats()
	s.Pool = Pool{
		InUse: stats.InUse, Open: stats.OpenConnections, Max: stats.MaxOpenConnections, Waits: stats.WaitCount,
		WaitSeconds: stats.WaitDuration.Seconds(),
	}
	s.ClockAhead = ClockAhead(ctx, c.Process.DB)
	families, err := c.Gatherer.Gather()
	if err != nil {
		s.Error = err.Error()
	}
	for _, f := range families {
		s.take(f)
	}
	return s
}

// lease is what the registration of a process says.
func (c *Collector) lease(m lease.Machine) Sample {
	return Sample{
		Machine: m.ID, Incarnation: m.Incarnation, Host: m.Host, Address: m.Address, Version: m.Version, Roles: m.Roles,
		Started: m.Started, Draining: m.Draining, Degraded: m.Degraded,
	}
}

// take stores one metric in its field of the sample.
func (s *Sample) take(f *dto.MetricFamily) {
	switch f.GetName() {
	case "process_cpu_seconds_total":
		s.CPU = total(f)
	case "process_resident_memory_bytes":
		s.Resident = int64(total(f))
	case "process_open_fds":
		s.Files = int64(total(f))
	case "process_max_fds":
		s.MaxFiles = int64(total(f))
	case "lyceum_stream_queued":
		s.Queued = int(total(f))
	case "lyceum_stream_commit_seconds":
		s.Commit = histogram(f)
	case "lyceum_stream_delivery_seconds":
		s.Delivery = histogram(f)
		for _, m := range f.Metric {
			s.stream(labels(m)["stream"]).Delivery = readHistogram(m.GetHistogram())
		}
	case "lyceum_sync_work_seconds":
		s.SyncWork = histogram(f)
	case "lyceum_bus_roundtrip_seconds":
		s.Redis = histogram(f)
	case "lyceum_blob_seconds":
		s.Blob = histogram(f)
	case "lyceum_router_hops_total":
		s.Hops = total(f)
	case "lyceum_http_request_duration_seconds", "lyceum_http_requests_in_flight":
		s.takeRoutes(f)
	case "lyceum_stream_position", "lyceum_stream_behind_rows", "lyceum_stream_owned", "lyceum_stream_rows_total":
		s.takeShards(f)
	}
}

// takeRoutes puts a metric of requests to their routes.
func (s *Sample) takeRoutes(f *dto.MetricFamily) {
	inFlight := f.GetName() == "lyceum_http_requests_in_flight"
	for _, m := range f.Metric {
		l := labels(m)
		if inFlight {
			if v := m.GetGauge().GetValue(); v > 0 {
				s.route(l).InFlight = v
			}
			continue
		}
		r := s.route(l)
		h := readHistogram(m.GetHistogram())
		r.ByCode[l["code"]] += float64(h.Count)
		r.Latency = r.Latency.Plus(h)
	}
}

// takeShards puts a metric of shards to their streams.
func (s *Sample) takeShards(f *dto.MetricFamily) {
	for _, m := range f.Metric {
		l := labels(m)
		shard := s.shard(l["stream"], l["shard"])
		if shard == nil {
			continue
		}
		switch v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); f.GetName() {
		case "lyceum_stream_position":
			shard.Position = int64(v)
		case "lyceum_stream_behind_rows":
			shard.Behind = int64(v)
		case "lyceum_stream_owned":
			shard.Owned = v > 0
		default:
			shard.Rows = v
		}
	}
}

// total is the sum of a counter or gauge over its labels.
func total(f *dto.MetricFamily) (sum float64) {
	for _, m := range f.Metric {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// histogram is a histogram added up over its labels.
func histogram(f *dto.MetricFamily) (h Histogram) {
	for _, m := range f.Metric {
		h = h.Plus(readHistogram(m.GetHistogram()))
	}
	return h
}

func labels(m *dto.Metric) map[string]string {
	out := make(map[string]string, len(m.Label))
	for _, l := range m.Label {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// route finds the series of a route, or begins it.
func (s *Sample) route(labels map[string]string) *Route {
	r := Route{Pattern: labels["route"], Role: labels["role"], Hop: labels["from"] == "process", ByCode: map[string]float64{}}
	for i := range s.Routes {
		if s.Routes[i].Like(&r) {
			return &s.Routes[i]
		}
	}
	s.Routes = append(s.Routes, r)
	return &s.Routes[len(s.Routes)-1]
}

// stream finds a stream, or begins it.
func (s *Sample) stream(name string) *ProcessStream {
	i := slices.IndexFunc(s.Streams, func(p ProcessStream) bool { return p.Name == name })
	if i < 0 {
		i = len(s.Streams)
		s.Streams = append(s.Streams, ProcessStream{Name: name, Shards: []ProcessShard{}})
	}
	return &s.Streams[i]
}

// maxShards is more than any stream has: a label beyond it is no number of a shard.
const maxShards = 1 << 12

// shard finds a shard of a stream, or begins it; nil for a label that is no number.
func (s *Sample) shard(stream, number string) *ProcessShard {
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= maxShards {
		return nil
	}
	of := s.stream(stream)
	for len(of.Shards) <= n {
		of.Shards = append(of.Shards, ProcessShard{})
	}
	return &of.Shards[n]
}

func readHistogram(h *dto.Histogram) Histogram {
	out := Histogram{Count: h.GetSampleCount(), Sum: h.GetSampleSum()}
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		out.Bounds = append(out.Bounds, b.GetUpperBound())
		out.Counts = append(out.Counts, b.GetCumulativeCount())
	}
	return out
}

// ClockAhead is this process's clock minus the database's, in seconds; half the round trip is its error.
func ClockAhead(ctx context.Context, d *db.DB) float64 {
	if !d.Postgres() {
		return 0
	}
	before := time.Now()
	var ms float64
	if err := d.QueryRow(ctx, "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::float8").Scan(&ms); err != nil {
		return 0
	}
	middle := before.Add(time.Since(before) / 2)
	return float64(middle.UnixMicro())/1e6 - ms/1e3
}

// Gather samples every live process and reads the leases. A process that does not answer is listed with
// its error.
func (c *Collector) Gather(ctx context.Context, server string) *Fleet {
	p := c.Process
	f := &Fleet{At: time.Now(), Server: server}
	machines := p.Leases.Machines()
	engines := make(chan Engines, 1)
	go func() { engines <- c.engines(ctx, machines) }()
	samples := make(chan Sample, len(machines))
	asked := 0
	for _, m := range machines {
		if slices.Contains(m.Roles, role.NoRole) {
			continue
		}
		asked++
		go func() { samples <- c.ask(ctx, m) }()
	}
	for range asked {
		f.Processes = append(f.Processes, <-samples)
	}
	slices.SortFunc(f.Processes, func(a, b Sample) int { return a.Machine - b.Machine })
	if len(f.Processes) > 0 {
		f.Version = f.Processes[0].Version
	}
	holder := func(name string) (machine int, h lease.Holder) {
		h, ok := p.Leases.Holder(name)
		if !ok {
			return -1, h
		}
		return h.Machine, h
	}
	held, err := p.Leases.Read(ctx, "")
	if err != nil {
		p.Log.Warn("the leases could not be read for the status", "error", err)
	}
	for _, st := range p.Streams.All() {
		s := Stream{Name: st.Name(), Role: st.Role()}
		for i := range st.Shards() {
			machine, _ := holder(st.Lease(i))
			s.Shards = append(s.Shards, Shard{Machine: machine, Epoch: held[st.Lease(i)].Epoch, Position: held[st.Lease(i)].Pos})
		}
		f.Streams = append(f.Streams, s)
	}
	for _, c := range p.Streams.Consumers() {
		s := Stream{Name: c.Name, Role: c.Role}
		for i := range c.Stream.Shards() {
			machine, _ := holder(c.Lease(i))
			s.Shards = append(s.Shards, Shard{Machine: machine, Epoch: held[c.Lease(i)].Epoch, Position: held[c.Lease(i)].Pos})
		}
		f.Consumers = append(f.Consumers, s)
	}
	for name := range held {
		if job, ok := strings.CutPrefix(name, "job/"); ok && p.HasJob(job) {
			machine, _ := holder(name)
			f.Jobs = append(f.Jobs, Lease{Name: job, Machine: machine, Epoch: held[name].Epoch})
		}
	}
	e := <-engines
	f.Database, f.Redis, f.Blob = e.Database, e.Redis, e.Blob
	slices.SortFunc(f.Jobs, func(a, b Lease) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// engines asks a process that has roles: the configuration of a command may name another directory.
func (c *Collector) engines(ctx context.Context, machines []lease.Machine) Engines {
	if slices.Contains(c.Process.Leases.Self().Roles, role.NoRole) {
		for _, m := range machines {
			if slices.Contains(m.Roles, role.NoRole) {
				continue
			}
			if e, err := rpc.Call[struct{}, Engines](ctx, c.Process.RPC, m.Address, enginesMethod, struct{}{}); err == nil {
				return e
			}
		}
	}
	return c.Engines(ctx)
}

func (c *Collector) ask(ctx context.Context, m lease.Machine) Sample {
	if m.ID == c.Process.Machine() {
		return c.Sample(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, sampleWait)
	defer cancel()
	s, err := rpc.Call[struct{}, Sample](ctx, c.Process.RPC, m.Address, sampleMethod, struct{}{})
	if err != nil {
		s = c.lease(m)
		s.At, s.Error = time.Now(), "it does not answer: "+err.Error()
	}
	return s
}
