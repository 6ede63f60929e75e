package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"lyceum/ops/plan"
	"lyceum/platform/status"
)

// Severity says how bad a finding is.
type Severity string

// From good to bad: OK is a check that passed, Note worth knowing, Warning a target missed or a risk, Critical
// something broken or open.
const (
	OK       Severity = "ok"
	Note     Severity = "note"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

var grades = []Severity{Critical, Warning, Note, OK}

// Finding is one thing the doctor saw.
type Finding struct {
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`  // stable name of the check
	Where    string   `json:"where"` // role, shard, machine, database, redis, blob store, configuration
	What     string   `json:"what"`  // measured, and the target
	Why      string   `json:"why,omitempty"`
	Do       string   `json:"do,omitempty"`

	order int // of its rule: what explains the others comes first
}

// Given is the input of Examine besides the samples. Every field may be left out.
type Given struct {
	Plan       *plan.Plan       // for the load that the fleet has: roles with fewer processes than planned get a finding
	Capacities *plan.Capacities // for the requests that a process can take; nil: those measured with the release
	Security   *Security
	// SyncBefore and SyncAfter are how long /sync requests worked, without the time they waited for news, of all processes together.
	// Without them the delivery to sync processes is used.
	SyncBefore, SyncAfter status.Histogram
	Now                   time.Time // zero: the time of the later sample
}

// Targets of the guides, and limits. Latencies are seconds; a value that reaches its limit misses it.
const (
	targetSync       = 0.5  // /sync p95, without waiting
	targetAPI        = 1.0  // other requests p95
	targetMedia      = 2.0  // uploads and downloads p95
	targetCommit     = 0.05 // database write p95
	targetDelivery   = 0.1  // stream latency p95
	targetLag        = 1.0  // replication lag
	targetBlob       = 0.5  // object store p95
	targetRedis      = 0.05 // round trip p95
	targetRoundTrip  = 0.01 // to the database
	targetCPU        = 0.7
	targetPool       = 0.8
	targetQueue      = 500
	targetBehind     = 500 // rows known and not seen
	targetErrors     = 0.01
	targetHops       = 0.3
	limitClock       = 0.5
	leastFiles       = 4096
	limitFiles       = 0.8
	limitMemory      = 0.8
	limitConnections = 0.8
	leastRequests    = 20 // fewer say nothing about a p95
	silentAfter      = 10 * time.Second
	startGrace       = time.Minute
	rolloutStuck     = 10 * time.Minute
)

const gib = 1 << 30

// exam is one examination.
type exam struct {
	before, after *status.Fleet
	given         Given
	now           time.Time
	seconds       float64 // between the samples
	findings      []Finding
	rule          int
}

// reading is one value of a gauge.
type reading struct {
	where  string
	value  float64
	detail string // added to what was measured
	do     string
}

// gauge is a measure with its limits. exam.check adds a finding for each reading that reaches a limit, the worst first and at most five,
// or one finding that all are well.
type gauge struct {
	rule     string
	what     string // what is measured: "commit p95"
	warn     float64
	critical float64 // 0: none
	show     func(float64) string
	why      string
}

// Examine compares two samples of a fleet, some seconds apart, with the targets. before may be nil: then
// counters since the start of each process stand in for what happens now.
func Examine(before, after *status.Fleet, g Given) []Finding {
	e := &exam{before: before, after: after, given: g, now: g.Now}
	if e.now.IsZero() {
		e.now = after.At
	}
	if before != nil {
		e.seconds = after.At.Sub(before.At).Seconds()
	}
	checks := []func(){
		e.engines, e.machines, e.shards, e.commits, e.pools, e.queues, e.processors, e.memory, e.delivery, e.behind, e.redis, e.blob,
		e.requests, e.errorRates, e.rates, e.hops, e.balance, e.versions, e.rollout, e.planned, e.jobs,
		e.clocks, e.files, e.scratch, e.listeners, e.proxies, e.enginesSafe, e.secure,
	}
	if after.Stopped { // there are no processes to examine
		checks = []func(){e.engines, e.machines, e.enginesSafe, e.secure}
	}
	for _, check := range checks {
		e.rule++
		check()
	}
	slices.SortStableFunc(e.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(grades, a.Severity), slices.Index(grades, b.Severity)), cmp.Compare(a.order, b.order))
	})
	return e.findings
}

func (e *exam) add(f Finding) {
	f.order = e.rule
	e.findings = append(e.findings, f)
}

func (e *exam) check(g gauge, readings []reading) {
	if len(readings) == 0 {
		return
	}
	slices.SortStableFunc(readings, func(a, b reading) int { return cmp.Compare(b.value, a.value) })
	bad := 0
	for _, r := range readings {
		if r.value < g.warn {
			break
		}
		if bad++; bad > 5 {
			continue
		}
		f := Finding{Severity: Warning, Rule: g.rule, Where: r.where, Why: g.why, Do: r.do}
		f.What = fmt.Sprintf("%s %s, target under %s", g.what, g.show(r.value), g.show(g.warn))
		if g.critical > 0 && r.value >= g.critical {
			f.Severity = Critical
		}
		if r.detail != "" {
			f.What += " (" + r.detail + ")"
		}
		e.add(f)
	}
	if bad > 5 {
		e.add(Finding{
			Severity: Warning, Rule: g.rule, Where: "others",
			What: fmt.Sprintf("%d more with %s over %s", bad-5, g.what, g.show(g.warn)),
		})
	}
	if bad == 0 {
		r := readings[0]
		e.add(Finding{
			Severity: OK, Rule: g.rule, Where: r.where,
			What: fmt.Sprintf("%s %s at most, target under %s", g.what, g.show(r.value), g.show(g.warn)),
		})
	}
}

// since returns the earlier sample of a process and the seconds since then, as Sample.Since does.
func (e *exam) since(s status.Sample) (old status.Sample, seconds float64) {
	if e.seconds <= 0 {
		return s.Since(nil)
	}
	return s.Since(e.before)
}

// alive returns the samples of the processes that answered.
func (e *exam) alive() []status.Sample {
	var out []status.Sample
	for _, s := range e.after.Processes {
		if s.Error == "" {
			out = append(out, s)
		}
	}
	return out
}

// name returns how a process is called in a finding.
func name(s status.Sample) string {
	roles := strings.Join(s.Roles, "+")
	if roles == "" {
		roles = "no role"
	}
	return fmt.Sprintf("machine %d (%s)", s.Machine, roles)
}

// count returns how many processes have the same roles as s.
func (e *exam) count(s status.Sample) (n int) {
	for _, o := range e.alive() {
		if slices.Equal(o.Roles, s.Roles) {
			n++
		}
	}
	return n
}

// scale returns the command that sets the number of processes with the roles of s to n.
func scale(s status.Sample, n int) string {
	if len(s.Roles) != 1 {
		return fmt.Sprintf("lyceum scale %s=%d; or give its busiest role processes of its own", strings.Join(s.Roles, "+"), n)
	}
	return fmt.Sprintf("lyceum scale %s=%d", s.Roles[0], n)
}

func milliseconds(v float64) string {
	if v >= 9.95 {
		return fmt.Sprintf("%.0f s", v)
	}
	if v >= 0.9995 {
		return fmt.Sprintf("%.1f s", v)
	}
	return fmt.Sprintf("%.3g ms", 1000*v)
}

func percent(v float64) string { return fmt.Sprintf("%.3g %%", 100*v) }

func plain(v float64) string { return fmt.Sprintf("%.0f", v) }

func size(v float64) string {
	switch {
	case v >= gib:
		return fmt.Sprintf("%.1f GiB", v/gib)
	default:
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	}
}
