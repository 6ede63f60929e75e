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
	// Doctor examines two samples of the fleet; before may be nil, p is a plan for the present load. findings is a list that is sent as
	// JSON.
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

	sampling chan struct{}   // full while a request samples the fleet: requests that come meanwhile get the same sample
	last     *status.Fleet   // the newest sample
	lastAt   time.Time       // when it was there
	history  []*status.Fleet // of the last minute, the oldest first
}

const (
	maxSampleAge  = 500 * time.Millisecond // up to this age the newest sample is used again
	sampleTimeout = 8 * time.Second        // the longest time the fleet is waited for
	historyStep   = 5 * time.Second        // least time between two samples in the history
	historyLength = time.Minute            // greatest age of a sample in it
)

// New makes an Admin.
func New(d Deps) *Admin {
	if d.Capacities == nil {
		d.Capacities = plan.Default()
	}
	return &Admin{deps: d, sampling: make(chan struct{}, 1)}
}

// sample returns a sample of the fleet, which may be maxSampleAge old, and an earlier one for rates, nil for none. A request that is
// cancelled does not cancel the sampling for the others that wait for it.
func (a *Admin) sample(ctx context.Context) (before, now *status.Fleet) {
	a.sampling <- struct{}{} // waits sampleTimeout at most
	defer func() { <-a.sampling }()
	if a.last == nil || a.deps.Now().Sub(a.lastAt) >= maxSampleAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sampleTimeout)
		defer cancel()
		a.last = slim(a.deps.Status(ctx))
		a.lastAt = a.deps.Now()
		a.remember(a.last)
	}
	if len(a.history) > 0 && a.history[0].At.Before(a.last.At) {
		before = a.history[0]
	}
	return before, a.last
}

// remember adds a sample to the history, unless the last one there is too new, and removes old ones.
func (a *Admin) remember(f *status.Fleet) {
	if n := len(a.history); n == 0 || f.At.Sub(a.history[n-1].At) >= historyStep {
		a.history = append(a.history, f)
	}
	for len(a.history) > 1 && f.At.Sub(a.history[0].At) > historyLength {
		a.history = a.history[1:]
	}
}

// slim removes routes and histograms without a request, which are most of most processes.
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
