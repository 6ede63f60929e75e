package admin

import (
	"slices"
	"strings"

	"lyceum/ops/plan"
	"lyceum/platform/status"
)

// leastLoad is used in place of 0, which a plan takes as not given.
const leastLoad = 1e-3

// LoadOf is the load of a fleet between two samples, in the terms of a plan: clients that wait in /sync, rows of
// the events stream per second, uploads per day. Without an earlier sample, rates are means since the start
// of each process.
func LoadOf(before, after *status.Fleet) plan.Load {
	var l plan.Load
	uploads := 0.0
	for _, s := range after.Processes {
		old, seconds := s.Since(before)
		if s.Error != "" || seconds <= 0 {
			continue
		}
		l.MessagesPerSecond += max(rows(s, "events")-rows(old, "events"), 0) / seconds
		for _, r := range s.Routes {
			if strings.HasSuffix(r.Pattern, "/sync") && !r.Hop {
				l.ConcurrentUsers += r.InFlight
			}
			if r.Role == "uploads" && !r.Hop {
				uploads += max(requests(r)-requests(routeOf(old, r)), 0) / seconds
			}
		}
	}
	l.MessagesPerSecond = max(l.MessagesPerSecond, leastLoad)
	l.UploadsPerDay = max(uploads*86400, leastLoad)
	return l
}

func rows(s status.Sample, stream string) (n float64) {
	for _, st := range s.Streams {
		if st.Name == stream {
			for _, shard := range st.Shards {
				n += shard.Rows
			}
		}
	}
	return n
}

func requests(r status.Route) (n float64) {
	for _, v := range r.ByCode {
		n += v
	}
	return n
}

func routeOf(s status.Sample, like status.Route) status.Route {
	for _, r := range s.Routes {
		if r.Like(&like) {
			return r
		}
	}
	return status.Route{}
}

// toRunningShape returns a plan in a shape that the fleet can be compared with: where processes have roles of their own, the shape
// "split", even when processes with all roles would do for the load. The advice stays.
func toRunningShape(p *plan.Plan, now *status.Fleet) *plan.Plan {
	whole := func(s status.Sample) bool { return slices.Contains(s.Roles, plan.AllRoles) }
	if p.Shape == "split" || !slices.ContainsFunc(now.Processes, func(s status.Sample) bool { return !whole(s) }) {
		return p
	}
	q := *p
	q.Shape, q.Processes, q.CPU, q.Memory, q.Busy = "split", 0, 0, 0, 0
	for _, r := range q.Roles {
		q.Processes += r.Replicas
		q.CPU += float64(r.Replicas) * r.CPU
		q.Memory += float64(r.Replicas) * r.Memory
		q.Busy += r.Busy
	}
	return &q
}

// Comparison is a plan for the present load beside the processes that run.
type Comparison struct {
	Load     plan.Load `json:"load"`
	Seconds  float64   `json:"seconds"` // over which rates were taken; 0: since the start of the processes
	Shape    string    `json:"shape"`
	Advice   string    `json:"advice"`
	Planned  int       `json:"processes_planned"` // 0: processes share roles otherwise than planned; only Rows tell
	Running  int       `json:"processes_running"`
	Busy     float64   `json:"busy_cores_planned"` // by all processes, at the load
	Used     float64   `json:"used_cores"`
	Memory   float64   `json:"memory_planned_bytes"`
	Resident float64   `json:"resident_bytes"`
	Rows     []RoleRow `json:"roles"`
}

// RoleRow is a role in a Comparison.
type RoleRow struct {
	Role    string   `json:"role"`
	Planned int      `json:"planned"`
	Running int      `json:"running"`        // processes that have the role and answer
	Busy    float64  `json:"busy_planned"`   // cores
	Used    *float64 `json:"used,omitempty"` // cores, where processes have this role alone
	Why     string   `json:"why"`
}

// Compare compares a plan with the fleet that runs.
func Compare(before, after *status.Fleet, p *plan.Plan) *Comparison {
	c := &Comparison{Load: p.Load, Shape: p.Shape, Advice: p.Advice, Planned: p.Processes, Busy: p.Busy, Memory: p.Memory, Rows: []RoleRow{}}
	if before != nil {
		c.Seconds = after.At.Sub(before.At).Seconds()
	}
	if p.Shape == "split" && slices.ContainsFunc(after.Processes, func(s status.Sample) bool { return len(s.Roles) > 1 }) {
		c.Planned = 0
	}
	alone := map[string]float64{}
	seen := map[string]bool{}
	for _, s := range after.Processes {
		if s.Error != "" {
			continue
		}
		c.Running++
		c.Resident += float64(s.Resident)
		old, seconds := s.Since(before)
		if seconds <= 0 {
			continue
		}
		used := max(s.CPU-old.CPU, 0) / seconds
		c.Used += used
		if len(s.Roles) == 1 {
			alone[s.Roles[0]] += used
			seen[s.Roles[0]] = true
		}
	}
	for _, r := range p.Effective() {
		if r.Replicas == 0 {
			continue
		}
		row := RoleRow{Role: r.Role, Planned: r.Replicas, Busy: r.Busy, Why: r.Why}
		for _, s := range after.Processes {
			if s.Error == "" && (r.Role == plan.AllRoles || slices.Contains(s.Roles, r.Role) || slices.Contains(s.Roles, plan.AllRoles)) {
				row.Running++
			}
		}
		switch used := alone[r.Role]; {
		case r.Role == plan.AllRoles:
			row.Used = &c.Used
		case seen[r.Role]:
			row.Used = &used
		}
		c.Rows = append(c.Rows, row)
	}
	return c
}
