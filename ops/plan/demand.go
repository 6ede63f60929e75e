package plan

// demand is how often an operation happens in the busiest minutes.
type demand struct {
	op     string
	rate   float64 // per second
	weight float64 // of one, against the one that was measured
	row    bool    // it writes a row that all processes receive
}

// demands turn a load into operations.
func demands(l Load) []demand {
	h := l.Habits
	m, users := l.MessagesPerSecond, l.ConcurrentUsers
	busy := h.PeakFactor / 86400
	weight := max(0.1, l.UploadSize/(1<<20))
	presence := users / h.PresenceEvery
	audience := min(h.Audience, users)
	return []demand{
		{op: OpMessage, rate: m, weight: 1, row: true},
		{op: OpDelivery, rate: audience*(m*(1+h.Receipts+h.Typing)+presence) + m*h.ToDevice, weight: 1},
		{op: OpFirstSync, rate: users * h.FirstSyncs / 3600, weight: 1},
		{op: OpRoom, rate: users * h.Rooms / 3600, weight: 1},
		{op: OpJoin, rate: users * h.Joins / 3600, weight: 1},
		{op: OpRequest, rate: users * h.Requests, weight: 1},
		{op: OpReceipt, rate: m * h.Receipts, weight: 1, row: true},
		{op: OpTyping, rate: m * h.Typing, weight: 1, row: true},
		{op: OpPresence, rate: presence, weight: 1, row: true},
		{op: OpToDevice, rate: m * h.ToDevice, weight: 1, row: true},
		{op: OpAccountData, rate: users * h.Settings / 3600, weight: 1, row: true},
		{op: OpUpload, rate: l.UploadsPerDay * busy, weight: weight},
		{op: OpDownload, rate: l.UploadsPerDay * h.Downloads * busy, weight: weight},
		{op: OpThumbnail, rate: l.UploadsPerDay * h.Thumbnails * busy, weight: 1},
		{op: OpEdit, rate: l.Editors * h.Edits, weight: 1, row: true},
		{op: OpCompile, rate: l.Compiles, weight: 1},
	}
}

// estimates stand in where nothing was measured: an edit at a fifth of a millisecond, half the speed of a
// plain ordered log in Go; a compile, which runs alone on a core, as a core second each second.
var estimates = map[string]Operation{
	OpEdit:    {Unit: "edit", Role: "projects", CPU: map[string]float64{"projects": 0.2, "router": 0.1, Database: 0.1}, PerCore: 5000},
	OpCompile: {Unit: "compile under way", Role: "compile", CPU: map[string]float64{"compile": 1000}, PerCore: 1},
}

// withEstimates are the capacities with what was not measured filled in.
func (c *Capacities) withEstimates() *Capacities {
	out := *c
	out.Operations = make(map[string]Operation, len(c.Operations)+len(estimates))
	for name, op := range estimates {
		out.Operations[name] = op
	}
	for name, op := range c.Operations {
		if !c.sizesKnown() {
			op.DatabaseBytes = Default().Operations[name].DatabaseBytes
		}
		out.Operations[name] = op
	}
	return &out
}

// sizesKnown reports whether the size of rows in the database was measured; it is not for a database that bench did not start.
func (c *Capacities) sizesKnown() bool { return c.Operations[OpMessage].DatabaseBytes > 0 }

// pools are the operations that have a pool: a role whose processes, if there are any, do them in place of their usual role.
var pools = map[string]string{OpUpload: "uploads", OpDownload: "downloads", OpThumbnail: "thumbnails"}

// isDivided reports whether the processes of a role divide an operation's work among them; if not, each of them receives the row of every
// one.
func isDivided(d demand, op Operation, role string) bool {
	return !d.row || role == op.Role || role == "router" || role == "push" || role == Database || role == Redis
}

// work is what a role must do, in cores.
type work struct {
	busy       float64 // divided among its processes
	perProcess float64 // done by every one of them
	parts      []part  // of busy, the largest first
}

type part struct {
	demand demand
	op     Operation
	cores  float64
}

// workOf returns the work of a role. ownPools are the pools that have processes of their own.
func workOf(role string, ds []demand, c *Capacities, ownPools map[string]bool) work {
	w := work{perProcess: c.idle(role)}
	for _, d := range ds {
		op, ok := c.Operations[d.op]
		if !ok { // not measured: its rows are received all the same
			if d.row && role != Database && role != Redis {
				w.perProcess += d.rate * c.Listening / 1000
			}
			continue
		}
		pool := pools[d.op]
		cost := c.cost(d.op, role)
		if pool == role {
			cost = c.cost(d.op, op.Role)
		}
		cores := d.rate * d.weight * cost / 1000
		switch {
		case pool == role || isDivided(d, op, role):
			if role == op.Role && ownPools[pool] {
				break
			}
			w.busy += cores
			if cores > 0 {
				w.parts = append(w.parts, part{d, op, cores})
			}
		default:
			w.perProcess += cores
			if d.row && cost < c.Listening {
				w.perProcess += d.rate * (c.Listening - cost) / 1000
			}
		}
	}
	return w
}
