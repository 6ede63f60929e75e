package admin

import (
	"context"
	"time"

	"lyceum/ops/plan"
	"lyceum/platform/status"
	"lyceum/reports"
	"lyceum/rooms"
)

// Deps are the dependencies of the package.
type Deps struct {
	// Status asks the whole fleet how it is.
	Status func(ctx context.Context) *status.Fleet
	// Doctor examines two samples of the fleet; before may be nil, p is a plan for the present load. findings is a
	// list that is sent as JSON.
	Doctor func(before, after *status.Fleet, p *plan.Plan) (headline string, findings any)
	// Roles are those of this build.
	Roles []plan.Role
	// Capacities are what a process can take; nil: those measured with the release.
	Capacities *plan.Capacities
	// Reports has what users reported, and Rooms the events that are reported.
	Reports *reports.Reports
	Rooms   *rooms.Rooms
	// Now is the clock.
	Now func() time.Time
}

// Admin answers operators.
type Admin struct {
	deps Deps

	turn  chan struct{} // held while the fleet is asked: requests that come meanwhile get the same answer
	last  *status.Fleet
	taken time.Time // of last
	kept  []*status.Fleet
}

const (
	fresh     = 500 * time.Millisecond // an answer of this age is given again
	gather    = 8 * time.Second        // the longest time the fleet is waited for
	keepEvery = 5 * time.Second        // distance of the samples that rates are made from
	keepFor   = time.Minute            // their greatest age
)

// New makes an Admin.
func New(d Deps) *Admin {
	if d.Capacities == nil {
		d.Capacities = plan.Default()
	}
	return &Admin{deps: d, turn: make(chan struct{}, 1)}
}

// sample asks the fleet, unless somebody just did. A request that goes away does not end the gathering for the
// others that wait for it.
func (a *Admin) sample(ctx context.Context) (before, now *status.Fleet) {
	a.turn <- struct{}{} // for gather at most
	defer func() { <-a.turn }()
	if a.last == nil || a.deps.Now().Sub(a.taken) >= fresh {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gather)
		defer cancel()
		a.last = slim(a.deps.Status(ctx))
		a.taken = a.deps.Now()
		a.keep(a.last)
	}
	if len(a.kept) > 0 && a.kept[0].At.Before(a.last.At) {
		before = a.kept[0]
	}
	return before, a.last
}

// keep remembers a sample each few seconds, for a minute.
func (a *Admin) keep(f *status.Fleet) {
	if n := len(a.kept); n == 0 || f.At.Sub(a.kept[n-1].At) >= keepEvery {
		a.kept = append(a.kept, f)
	}
	for len(a.kept) > 1 && f.At.Sub(a.kept[0].At) > keepFor {
		a.kept = a.kept[1:]
	}
}

// slim leaves out series that count nothing: most routes of most processes.
func slim(f *status.Fleet) *status.Fleet {
	for i := range f.Processes {
		p := &f.Processes[i]
		routes := make([]status.Route, 0, len(p.Routes))
		for _, r := range p.Routes {
			if r.Latency.Count > 0 || r.InFlight > 0 {
				routes = append(routes, r)
			}
		}
		p.Routes = routes
		for _, h := range []*status.Histogram{&p.Commit, &p.Delivery, &p.Redis, &p.Blob} {
			if h.Count == 0 {
				*h = status.Histogram{}
			}
		}
	}
	return f
}
