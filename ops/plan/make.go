package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Target is the share of its CPU that a process should use: the middle of the guide's 60 to 70 %.
const Target = 0.65

// DatabaseTarget is the share of its CPU that PostgreSQL should use in the busiest minutes.
const DatabaseTarget = 0.6

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Role is a role of the fleet, as far as a plan needs to know it.
type Role struct {
	Name   string
	Stream string // whose shards its processes share; "" for none
	Pool   string // role that serves it where no process has this one
	Shards int    // of its stream, the most processes that have work; 0: not known
}

// Plan is a fleet for a load.
type Plan struct {
	Load      Load       `json:"load"`
	Derived   []string   `json:"derived"` // what was not given, and where it comes from
	Phase     int        `json:"phase"`
	PhaseName string     `json:"phase_name"`
	Shape     string     `json:"shape"`  // one, whole or split: what is advised
	Advice    string     `json:"advice"` // the shape in a sentence
	Roles     []RolePlan `json:"roles"`  // one process for each role, several of most
	Whole     RolePlan   `json:"whole"`  // the same work by processes that have every role
	Processes int        `json:"processes"`
	CPU       float64    `json:"cpu_cores"` // requested by all processes
	Busy      float64    `json:"busy_cores"`
	Memory    float64    `json:"memory_bytes"`

	Database DatabasePlan `json:"database"`
	Redis    RedisPlan    `json:"redis"`
	Blob     BlobPlan     `json:"blob"`
	Network  NetworkPlan  `json:"network"`
	Notes    []string     `json:"notes"`
	Measured Provenance   `json:"measured"`
}

// RolePlan is what a role needs. CPU and Memory are of one process.
type RolePlan struct {
	Role     string  `json:"role"`
	Replicas int     `json:"replicas"` // 0: served by another role
	CPU      float64 `json:"cpu_cores"`
	CPULimit float64 `json:"cpu_limit_cores"`
	Memory   float64 `json:"memory_bytes"`
	Busy     float64 `json:"busy_cores"` // of all its processes, at the load
	Why      string  `json:"why"`
}

// DatabasePlan is for PostgreSQL.
type DatabasePlan struct {
	CPU            float64 `json:"cpu_cores"`
	Memory         float64 `json:"memory_bytes"`
	SharedBuffers  float64 `json:"shared_buffers_bytes"`
	Connections    int     `json:"connections_per_process"` // database.connections
	MaxConnections int     `json:"max_connections"`
	GrowthPerMonth float64 `json:"growth_bytes_per_month"`
	Why            string  `json:"why"`
}

// RedisPlan is for Redis.
type RedisPlan struct {
	CPU            float64 `json:"cpu_cores"`
	Memory         float64 `json:"memory_bytes"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	Why            string  `json:"why"`
}

// BlobPlan is for the blob store.
type BlobPlan struct {
	GrowthPerMonth float64 `json:"growth_bytes_per_month"`
	Requests       float64 `json:"requests_per_second"`
	Why            string  `json:"why"`
}

// NetworkPlan is between clients and the fleet, in bits per second.
type NetworkPlan struct {
	In  float64 `json:"in_bits_per_second"`
	Out float64 `json:"out_bits_per_second"`
}

// planner holds what Make works with.
type planner struct {
	*Plan
	caps  *Capacities
	roles []Role
	ds    []demand

	ownPools         map[string]bool // pools with processes of their own
	usesReleaseSizes bool            // the capacities had no sizes of rows, so those of the release are used
}

// Make plans a fleet. The load must be valid (Load.Validate); roles are those of this build.
func Make(l Load, c *Capacities, roles []Role) *Plan {
	p := &planner{
		Plan: &Plan{Measured: c.Measured}, caps: c.withEstimates(), roles: roles, ownPools: map[string]bool{},
		usesReleaseSizes: !c.sizesKnown(),
	}
	p.Load, p.Derived = l.complete()
	p.Phase, p.PhaseName = Phase(l.ConcurrentUsers)
	p.ds = demands(p.Load)
	p.cores()
	for _, op := range []string{OpUpload, OpDownload, OpThumbnail} {
		pool := pools[op]
		if i := slices.IndexFunc(roles, func(r Role) bool { return r.Name == pool && r.Pool != "" }); i >= 0 {
			p.ownPools[pool] = workOf(pool, p.ds, p.caps, nil).busy > poolFrom
		}
	}
	for _, r := range roles {
		p.Roles = append(p.Roles, p.role(r))
	}
	p.whole()
	p.choose()
	p.engines()
	p.notes()
	return p.Plan
}

// cores chooses the size of a process: the work on rows that every process receives must stay below a quarter of the target.
func (p *planner) cores() {
	if p.Load.Cores > 0 {
		return
	}
	most := 0.0
	for _, r := range p.roles {
		most = max(most, workOf(r.Name, p.ds, p.caps, nil).perProcess)
	}
	for p.Load.Cores = 2; most > Target*p.Load.Cores/4 && p.Load.Cores < 32; p.Load.Cores *= 2 {
	}
	why := "a common size"
	if p.Load.Cores > 2 {
		why = fmt.Sprintf("each process spends up to %s cores on hearing of every message, so fewer and larger ones are cheaper", number(most))
	}
	p.Derived = append(p.Derived, fmt.Sprintf("processes of %s cores: %s", number(p.Load.Cores), why))
}

// poolFrom is the busy cores from which a kind of media work gets processes of its own.
const poolFrom = 0.5

// floor is the least number of processes of a role: two from the second phase on, so that one may fail.
func (p *planner) floor() int {
	if p.Phase >= 2 {
		return 2
	}
	return 1
}

func (p *planner) role(r Role) RolePlan {
	out := RolePlan{Role: r.Name, CPULimit: p.Load.Cores}
	if r.Pool != "" && !p.ownPools[r.Name] {
		out.Why = "served by the processes of " + r.Pool + " at this load"
		return out
	}
	w := workOf(r.Name, p.ds, p.caps, p.ownPools)
	out.Replicas = p.replicas(w, p.Load.Cores)
	capped := false
	if r.Stream != "" && r.Shards > 0 && out.Replicas > r.Shards {
		out.Replicas, capped = r.Shards, true
	}
	p.size(&out, w)
	out.Memory = p.memory(r.Name, out.Replicas)
	out.Why = p.why(w, out)
	if capped {
		out.Why += fmt.Sprintf("; its stream has %d shards, so more processes would have nothing to do: give each more cores", r.Shards)
	}
	return out
}

// replicas is how many processes of so many cores keep to the target.
func (p *planner) replicas(w work, cores float64) int {
	room := Target*cores - w.perProcess
	if room < 0.1 { // what every process receives fills it: larger ones are needed, and the notes say so
		room = 0.1
	}
	return max(p.floor(), ceil(w.busy/room))
}

func (p *planner) size(out *RolePlan, w work) {
	n := float64(out.Replicas)
	out.Busy = w.busy + n*w.perProcess
	out.CPU = max(0.1, math.Ceil(out.Busy/n/Target*20)/20)
	out.CPULimit = max(out.CPULimit, out.CPU)
}

// What a process may take beyond what it has in memory at rest, as manual/survival.md promises.
const (
	DefaultMaxInFlight = 256 * mib // http.max_in_flight
	DefaultOwnerMemory = 256 * mib // rooms.owner_memory
	Building           = 200 * mib // what is being built, and garbage
)

// peak is what a process of a role may take beyond what it has in memory at rest: what it holds for slow clients, what it builds, and
// the rooms whose events it orders. No memory limit may be below it.
func (l *Load) peak(role string) float64 {
	n := cmp.Or(l.MaxInFlight, DefaultMaxInFlight) + Building
	if role == "events" || role == AllRoles {
		n += cmp.Or(l.OwnerMemory, DefaultOwnerMemory)
	}
	return n
}

// memory returns the memory limit of one process: what it takes at rest and a third more, its waiting clients and half as much more,
// its peak beyond that, and what the decoding of pictures takes; rounded up to 64 MiB.
func (p *planner) memory(role string, replicas int) float64 {
	n := 1.33 * p.caps.resident(role)
	if n == 0 {
		n = 1.33 * p.caps.resident("client")
	}
	n += 1.5*p.caps.ClientBytes[role]*p.Load.ConcurrentUsers/float64(max(1, replicas)) + p.Load.peak(role)
	switch {
	case role == "thumbnails" || role == "media" && !p.ownPools["thumbnails"]:
		n += 512 * mib * math.Ceil(p.Load.Cores) / 2
	case role == "compile":
		n += 1 * gib
	}
	return math.Ceil(n/(64*mib)) * 64 * mib
}

// why returns the sentence that explains the size of a role by numbers.
func (p *planner) why(w work, out RolePlan) string {
	slices.SortStableFunc(w.parts, func(a, b part) int { return cmp.Compare(b.cores, a.cores) })
	if w.busy < 0.005 {
		if out.Replicas == 1 {
			return "hardly any work"
		}
		return fmt.Sprintf("hardly any work; %s, so that one may fail", number(float64(out.Replicas)))
	}
	var parts []string
	for i, x := range w.parts {
		if i == 2 || x.cores < w.busy/20 {
			break
		}
		parts = append(parts, fmt.Sprintf("%s/s %s at %s ms", number(x.demand.rate), plural(x.op.Unit), number(1000*x.cores/x.demand.rate)))
	}
	s := fmt.Sprintf("%s: %s cores", strings.Join(parts, ", "), number(w.busy))
	if p.caps.ClientBytes[out.Role] > 0 {
		s += fmt.Sprintf("; %s clients at %s", number(p.Load.ConcurrentUsers), size(p.caps.ClientBytes[out.Role]))
	}
	if w.perProcess > 0.01 {
		s += fmt.Sprintf("; each process hears all news: %s cores", number(w.perProcess))
	}
	if out.Replicas == p.floor() && out.Replicas > 1 && ceil(w.busy/max(0.1, Target*p.Load.Cores-w.perProcess)) < out.Replicas {
		s += "; two, so that one may fail"
	}
	return s
}

// whole plans the same work for processes that have all roles, with clients balanced at random.
func (p *planner) whole() {
	var all work
	all.perProcess = p.caps.idle(AllRoles)
	memory, hops := 0.0, 0.0
	for _, r := range p.roles {
		if r.Pool != "" {
			continue
		}
		w := workOf(r.Name, p.ds, p.caps, nil)
		all.busy += w.busy
		if r.Name == "router" {
			hops = w.busy
		}
		all.perProcess = max(all.perProcess, w.perProcess) // one process receives rows once for all of its roles
		memory = max(memory, p.caps.resident(r.Name))
	}
	// A request that reaches its owner at once is not passed on: of n processes one in n is the owner.
	out := RolePlan{Role: AllRoles, CPULimit: p.Load.Cores}
	everything := all.busy
	for n := p.floor(); ; n = out.Replicas { // more processes are busier, so none between the two is enough
		all.busy = everything - hops/float64(n)
		if out.Replicas = p.replicas(all, p.Load.Cores); out.Replicas <= n {
			out.Replicas = n
			break
		}
	}
	p.size(&out, all)
	clients := p.caps.ClientBytes["sync"] + p.caps.ClientBytes["router"] + p.caps.ClientBytes[AllRoles]
	memory = 2*memory + 1.5*clients*p.Load.ConcurrentUsers/float64(out.Replicas) + p.Load.peak(AllRoles) + 512*mib
	out.Memory = math.Ceil(memory/(64*mib)) * 64 * mib
	out.Why = fmt.Sprintf("%s busy cores in all at %.0f %% of %s cores a process", number(all.busy), 100*Target, number(p.Load.Cores))
	p.Whole = out
}

// choose chooses the simplest shape that carries the load.
func (p *planner) choose() {
	users := number(p.Load.ConcurrentUsers)
	switch {
	case p.Phase == 1 && p.Whole.Replicas == 1:
		p.Shape = "one"
		p.Advice = fmt.Sprintf("One process is enough for %s users: `lyceum serve`, over SQLite or PostgreSQL; "+
			"it needs %s cores and %s. A second one, over PostgreSQL and Redis, only so that one may fail.",
			users, number(p.Whole.CPU), size(p.Whole.Memory))
	case p.Whole.Replicas <= 3:
		p.Shape = "whole"
		p.Advice = fmt.Sprintf("%s that have every role are the simplest for %s users: any of them answers anything and one may fail. "+
			"The table below is the same with a process for each role.",
			upper(count(p.Whole.Replicas, "process", "processes")), users)
	default:
		p.Shape = "split"
		p.Advice = fmt.Sprintf("Give each role processes of its own for %s users, as below. %d processes of %s cores that have every role "+
			"would carry it too.", users, p.Whole.Replicas, number(p.Load.Cores))
	}
	rows := p.Roles
	if p.Shape != "split" {
		rows = []RolePlan{p.Whole}
	}
	for _, r := range rows {
		p.Processes += r.Replicas
		p.CPU += float64(r.Replicas) * r.CPU
		p.Memory += float64(r.Replicas) * r.Memory
		p.Busy += r.Busy
	}
}

// Effective are the rows of the advised shape.
func (p *Plan) Effective() []RolePlan {
	if p.Shape == "split" {
		return p.Roles
	}
	return []RolePlan{p.Whole}
}

// Replicas is the number of processes that have a role in the advised shape.
func (p *Plan) Replicas(role string) int {
	if p.Shape != "split" {
		return p.Whole.Replicas
	}
	for _, r := range p.Roles {
		if r.Role == role {
			return r.Replicas
		}
	}
	return 0
}
