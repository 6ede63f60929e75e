package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lyceum/platform/status"
)

// engines looks at what all stand on.
func (e *exam) engines() {
	var trips, blobTrips, connections, memory, lag []reading
	for _, x := range []struct {
		where string
		e     status.Engine
	}{{"database", e.after.Database}, {"redis", e.after.Redis}, {"blob store", e.after.Blob}} {
		if x.e.Kind == "" {
			continue
		}
		where := fmt.Sprintf("%s (%s)", x.where, x.e.Kind)
		if x.e.Error != "" {
			f := Finding{
				Severity: Critical, Rule: "engine", Where: where, What: "it does not answer: " + x.e.Error,
				Why: "nothing is read or written without it", Do: "start it, or correct its address in the configuration: " + x.e.Address,
			}
			if x.where == "redis" {
				f.Why = "the fleet works on from the database, slower, and readers notice news late"
			}
			e.add(f)
			continue
		}
		switch x.where {
		case "database":
			trips = append(trips, reading{where, x.e.RoundTrip, "", "look at the network to PostgreSQL and at its load: " +
				"every statement takes at least this long"})
		case "blob store":
			blobTrips = append(blobTrips, reading{where, x.e.RoundTrip, "", "look at the blob store: its load, the network to it"})
		}
		if x.e.MaxConn > 0 {
			connections = append(connections, reading{
				where, float64(x.e.Connections) / float64(x.e.MaxConn), fmt.Sprintf("%d of %d", x.e.Connections, x.e.MaxConn),
				"raise max_connections, or lower database.connections of the processes, or put a pooler in session mode before it",
			})
		}
		if x.e.MaxMemory > 0 {
			memory = append(memory, reading{where, float64(x.e.Memory) / float64(x.e.MaxMemory), size(float64(x.e.Memory)) + " of " +
				size(float64(x.e.MaxMemory)), "raise maxmemory"})
		}
		if v, ok := x.e.Extra["replication_lag_seconds"]; ok {
			lag = append(lag, reading{where, v, "", "look at the standby: its disk, the network to it"})
		}
	}
	e.check(gauge{
		rule: "database-trip", what: "round trip to the database", warn: targetRoundTrip, critical: 10 * targetRoundTrip,
		show: milliseconds, why: "a commit needs several",
	}, trips)
	e.check(gauge{
		rule: "blob-trip", what: "round trip to the blob store", warn: targetBlob, critical: 10 * targetBlob, show: milliseconds,
		why: "every download and upload waits for it",
	}, blobTrips)
	e.check(gauge{
		rule: "connections", what: "connections in use", warn: limitConnections, critical: 0.95, show: percent,
		why: "a process that finds none can not start",
	}, connections)
	e.check(gauge{
		rule: "engine-memory", what: "memory in use", warn: limitMemory, critical: 0.95, show: percent,
		why: "at its limit it refuses to work or forgets",
	}, memory)
	e.check(gauge{
		rule: "database-lag", what: "replication lag of the database", warn: targetLag, critical: 60 * targetLag, show: milliseconds,
		why: "what a standby has not got is lost when it takes over",
	}, lag)
}

// machines looks at the processes themselves.
func (e *exam) machines() {
	if e.after.Stopped {
		e.add(Finding{
			Severity: Critical, Rule: "machine", Where: "server", What: "no process runs",
			Why: "nobody is served, and of processes nothing could be looked at",
			Do:  "start it: lyceum serve with the same --config or --data, or lyceum up for a fleet of this machine",
		})
		return
	}
	well := 0
	for _, s := range e.after.Processes {
		age := e.now.Sub(s.At)
		switch {
		case s.Error != "":
			e.add(Finding{
				Severity: Critical, Rule: "machine", Where: name(s), What: "it does not answer: " + s.Error,
				Why: "it holds a lease and serves nobody, or the network between it and the others is cut", Do: fmt.Sprintf("lyceum logs %d; lyceum "+
					"restart %d", s.Machine, s.Machine),
			})
		case age >= silentAfter:
			e.add(Finding{
				Severity: Critical, Rule: "machine", Where: name(s),
				What: fmt.Sprintf("no heartbeat for %.0f s, expected one in %.0f s", age.Seconds(), silentAfter.Seconds()),
				Why:  "it is paused, cut off or dead; its shards move to others", Do: fmt.Sprintf("lyceum restart %d", s.Machine),
			})
		case s.Draining:
			e.add(Finding{Severity: Note, Rule: "machine", Where: name(s), What: "it is draining: it gives its shards away and ends"})
		case !s.Ready && e.now.Sub(s.Started) < startGrace:
			e.add(Finding{Severity: Note, Rule: "machine", Where: name(s), What: "it is starting"})
		case !s.Ready:
			e.add(Finding{
				Severity: Critical, Rule: "machine", Where: name(s),
				What: fmt.Sprintf("not ready %.0f s after its start", e.now.Sub(s.Started).Seconds()),
				Do:   fmt.Sprintf("lyceum logs %d: its last lines say what it waits for", s.Machine),
			})
		default:
			well++
		}
	}
	if well == len(e.after.Processes) && well > 0 {
		e.add(Finding{Severity: OK, Rule: "machine", Where: "fleet", What: fmt.Sprintf("all %d processes answer and are ready", well)})
	}
	if well == 0 {
		e.add(Finding{Severity: Critical, Rule: "machine", Where: "fleet", What: "no process is ready", Do: "lyceum up, or start the workloads"})
	}
}

// shards looks for those that nobody serves.
func (e *exam) shards() {
	known := map[int]bool{}
	for _, s := range e.alive() {
		known[s.Machine] = true
	}
	total, bad := 0, 0
	for _, st := range e.after.Streams {
		var orphans, lost []string
		for i, sh := range st.Shards {
			total++
			switch {
			case sh.Machine < 0:
				orphans = append(orphans, strconv.Itoa(i))
			case !known[sh.Machine]:
				lost = append(lost, fmt.Sprintf("%d (machine %d)", i, sh.Machine))
			}
		}
		bad += len(orphans) + len(lost)
		do := fmt.Sprintf("lyceum scale %s=2", st.Role)
		if n := e.with(st.Role); n > 0 {
			do = fmt.Sprintf("lyceum restart %s: its processes take free shards within seconds; if they do not, their logs say why", st.Role)
		}
		if len(orphans) > 0 {
			e.add(Finding{
				Severity: Critical, Rule: "shard-owner", Where: fmt.Sprintf("stream %s, shards %s", st.Name, shorten(orphans)),
				What: fmt.Sprintf("%d of %d shards have no owner", len(orphans), len(st.Shards)),
				Why:  fmt.Sprintf("nothing can be written to them; %d processes have the role %s", e.with(st.Role), st.Role), Do: do,
			})
		}
		if len(lost) > 0 {
			e.add(Finding{
				Severity: Critical, Rule: "shard-owner", Where: fmt.Sprintf("stream %s, shards %s", st.Name, shorten(lost)),
				What: fmt.Sprintf("the owner of %d shards does not answer", len(lost)),
				Why:  "writes to them wait until the lease of that machine ends", Do: do,
			})
		}
	}
	if total > 0 && bad == 0 {
		e.add(Finding{Severity: OK, Rule: "shard-owner", Where: "streams", What: fmt.Sprintf("all %d shards have an owner that answers", total)})
	}
}

func shorten(list []string) string {
	if len(list) > 8 {
		return strings.Join(list[:8], ", ") + fmt.Sprintf(" and %d more", len(list)-8)
	}
	return strings.Join(list, ", ")
}

// balance looks at how evenly the shards are shared, and for a shard that does most of the work.
func (e *exam) balance() {
	uneven := 0
	for _, st := range e.after.Streams {
		held := map[int]int{}
		for _, s := range e.alive() {
			if s.Has(st.Role) && s.Ready && !s.Draining && e.now.Sub(s.Started) >= startGrace {
				held[s.Machine] = 0
			}
		}
		for _, sh := range st.Shards {
			if _, ok := held[sh.Machine]; ok {
				held[sh.Machine]++
			}
		}
		if len(held) < 2 {
			continue
		}
		least, most, at := len(st.Shards), 0, -1
		for m, n := range held {
			least = min(least, n)
			if n > most || n == most && m < at {
				most, at = n, m
			}
		}
		if most-least > 1 {
			uneven++
			e.add(Finding{
				Severity: Warning, Rule: "balance", Where: fmt.Sprintf("stream %s, machine %d", st.Name, at),
				What: fmt.Sprintf("its %d processes hold from %d to %d shards, expected a difference of one at most", len(held), least, most),
				Why:  "shards move by themselves within seconds; where they do not, a process can not take any", Do: fmt.Sprintf("lyceum restart %d",
					at),
			})
		}
	}
	if uneven == 0 && len(e.after.Streams) > 0 {
		e.add(Finding{Severity: OK, Rule: "balance", Where: "streams", What: "shards are shared evenly"})
	}
	e.hotShards()
}

// leastRows is how many rows a stream must get between the samples before its shards are compared.
const leastRows = 500

// hotShards finds a shard that gets half of a stream's rows: one room or user that more processes do not help.
func (e *exam) hotShards() {
	rows := map[string][]float64{}
	for _, s := range e.alive() {
		old, _ := e.since(s)
		earlier := map[string][]status.ProcessShard{}
		for _, st := range old.Streams {
			earlier[st.Name] = st.Shards
		}
		for _, st := range s.Streams {
			if len(rows[st.Name]) < len(st.Shards) {
				rows[st.Name] = append(rows[st.Name], make([]float64, len(st.Shards)-len(rows[st.Name]))...)
			}
			for i, sh := range st.Shards {
				n := sh.Rows
				if was := earlier[st.Name]; i < len(was) && was[i].Rows <= n {
					n -= was[i].Rows
				}
				rows[st.Name][i] += n
			}
		}
	}
	for _, st := range e.after.Streams {
		total, most, at := 0.0, 0.0, 0
		for i, n := range rows[st.Name] {
			total += n
			if n > most {
				most, at = n, i
			}
		}
		if len(rows[st.Name]) > 2 && total >= leastRows && most >= total/2 {
			e.add(Finding{
				Severity: Note, Rule: "hot-shard", Where: fmt.Sprintf("stream %s, shard %d", st.Name, at),
				What: fmt.Sprintf("%s of the rows of the stream", percent(most/total)),
				Why:  "one busy key (a room, a user): its owner alone serves it, so more processes do not help",
				Do:   "give its owner more CPU; see who writes so much (rate limits)",
			})
		}
	}
}

// versions holds the fleet to one version, or to the skew rules while an upgrade runs.
func (e *exam) versions() {
	by := map[string][]string{}
	first := ""
	for _, s := range e.alive() {
		by[s.Version] = append(by[s.Version], strconv.Itoa(s.Machine))
		if s.Machine == 0 {
			first = s.Version
		}
	}
	if len(by) < 2 {
		if len(by) == 1 {
			e.add(Finding{Severity: OK, Rule: "versions", Where: "fleet", What: "one version"})
		}
		return
	}
	var all []string
	x, y, newest := map[string]bool{}, map[string]bool{}, ""
	for v, machines := range by {
		slices.Sort(machines)
		all = append(all, fmt.Sprintf("%s on machines %s", v, shorten(machines)))
		parts := append(strings.SplitN(v, ".", 3), "", "")
		x[parts[0]], y[parts[1]] = true, true
		if newest == "" || newer(v, newest) {
			newest = v
		}
	}
	slices.Sort(all)
	f := Finding{
		Severity: Note, Rule: "versions", Where: "fleet", What: strings.Join(all, "; ") + "; expected one",
		Why: "they differ in Z only, which may mix for long", Do: "lyceum rollout finishes the upgrade",
	}
	running := e.after.Rollout != nil && e.after.Rollout.State == "running"
	switch {
	case len(x) > 1:
		f.Severity, f.Why, f.Do = Critical, "they differ in X, which breaks: such versions must not run together",
			"stop all, then start all with one version"
	case len(y) > 1 && !running:
		f.Severity, f.Why = Warning, "they differ in Y, which may mix only while an upgrade runs"
	case running:
		f.Why = "an upgrade runs"
	}
	e.add(f)
	if first != "" && first != newest && newer(newest, first) {
		e.add(Finding{
			Severity: Warning, Rule: "machine-0-first", Where: "machine 0", What: fmt.Sprintf("it has %s, others have %s already", first, newest),
			Why: "machine 0 does background work and must be upgraded first", Do: "lyceum rollout upgrades machine 0 first; " +
				"else restart it with the new version now",
		})
	}
}

// newer compares versions X.Y.Z by their numbers.
func newer(a, b string) bool {
	pa, pb := strings.SplitN(a, ".", 3), strings.SplitN(b, ".", 3)
	for i := range min(len(pa), len(pb)) {
		na, _ := strconv.Atoi(strings.SplitN(pa[i], "-", 2)[0])
		nb, _ := strconv.Atoi(strings.SplitN(pb[i], "-", 2)[0])
		if na != nb {
			return na > nb
		}
	}
	return len(pa) > len(pb)
}

func (e *exam) rollout() {
	r := e.after.Rollout
	if r == nil {
		return
	}
	what := fmt.Sprintf("%s to %s: %s, %d of %d processes", r.From, r.To, r.State, r.Done, r.Of)
	f := Finding{Severity: OK, Rule: "rollout", Where: "rollout", What: what}
	switch {
	case r.State == "failed":
		f.Severity, f.Why, f.Do = Critical, r.Reason, "lyceum rollout again when the reason is gone, or back to "+r.From
	case r.State == "rolled back":
		f.Severity, f.Why, f.Do = Warning, r.Reason, "find the reason before the next attempt"
	case r.State == "running" && e.now.Sub(r.Changed) >= rolloutStuck:
		f.Severity, f.Why, f.Do = Critical, fmt.Sprintf("nothing changed for %.0f minutes; at %s", e.now.Sub(r.Changed).Minutes(), r.Now),
			"look at that process; then lyceum rollout again"
	case r.State == "running":
		f.Severity = Note
	}
	e.add(f)
}

// planned compares the processes with a plan for the load they have.
func (e *exam) planned() {
	p := e.given.Plan
	if p == nil {
		return
	}
	short := 0
	for _, r := range p.Effective() {
		if r.Replicas == 0 || r.Role == "all" && e.with(r.Role) == 0 { // a fleet that is split has no process with every role
			continue
		}
		if n := e.with(r.Role); n < r.Replicas {
			short++
			e.add(Finding{
				Severity: Warning, Rule: "plan", Where: "role " + r.Role, What: fmt.Sprintf("%d processes, the plan has %d", n, r.Replicas),
				Why: r.Why, Do: fmt.Sprintf("lyceum scale %s=%d", r.Role, r.Replicas),
			})
		}
	}
	if short == 0 {
		e.add(Finding{
			Severity: OK, Rule: "plan", Where: "fleet",
			What: fmt.Sprintf("no role has fewer processes than planned for %.0f users", p.Load.ConcurrentUsers),
		})
	}
}

func (e *exam) jobs() {
	for _, c := range e.after.Consumers {
		nobody := 0
		for _, shard := range c.Shards {
			if shard.Machine < 0 {
				nobody++
			}
		}
		if nobody > 0 {
			e.add(Finding{
				Severity: Warning, Rule: "jobs", Where: "consumer " + c.Name, What: fmt.Sprintf("nobody works on %d of %d shards", nobody,
					len(c.Shards)),
				Why: "what it does after each write waits, and is done when somebody takes it", Do: "start a process with the role " + c.Role,
			})
		}
	}
	for _, j := range e.after.Jobs {
		if j.Machine < 0 {
			e.add(Finding{
				Severity: Warning, Rule: "jobs", Where: "background work " + j.Name, What: "nobody does it",
				Why: "retention, statistics and clean-up stand still",
				Do:  "start machine 0, or let machine ids be automatic (fleet.machine_id: auto)",
			})
		}
	}
}
