package doctor

import (
	"fmt"
	"math"
	"strings"

	"lyceum/ops/plan"
	"lyceum/platform/status"
)

// commits follows "slow message delivery" of the guide: event persisters, then the database.
func (e *exam) commits() {
	var list []reading
	slowDatabase := e.after.Database.RoundTrip >= targetRoundTrip
	for _, s := range e.alive() {
		old, _ := e.since(s)
		h := s.Commit.Minus(old.Commit)
		if h.Count < leastRequests {
			continue
		}
		do := scale(s, e.count(s)+1) + ": its shards are shared by more processes"
		if slowDatabase {
			do = "look at PostgreSQL first: its disk (fsync), its CPU, and pg_stat_activity for what waits; more processes would not help"
		}
		list = append(list, reading{name(s), h.Quantile(0.95), fmt.Sprintf("%d commits", h.Count), do})
	}
	e.check(gauge{
		rule: "database-write", what: "database write (group commit) p95", warn: targetCommit, critical: 10 * targetCommit, show: milliseconds,
		why: "a message is acknowledged when its commit is on disk, so senders wait this long",
	}, list)
}

func (e *exam) pools() {
	var list, waits []reading
	for _, s := range e.alive() {
		if s.Pool.Max == 0 {
			continue
		}
		old, _ := e.since(s)
		do := fmt.Sprintf("raise database.connections above %d (and max_connections of PostgreSQL), or %s", s.Pool.Max, scale(s, e.count(s)+1))
		list = append(list, reading{
			name(s), float64(s.Pool.InUse) / float64(s.Pool.Max),
			fmt.Sprintf("%d of %d connections", s.Pool.InUse, s.Pool.Max), do,
		})
		n := s.Pool.Waits - old.Pool.Waits
		if n < 0 {
			n, old.Pool.WaitSeconds = s.Pool.Waits, 0
		}
		if n > 0 {
			waits = append(waits, reading{name(s), (s.Pool.WaitSeconds - old.Pool.WaitSeconds) / float64(n), fmt.Sprintf("%d waits", n), do})
		}
	}
	e.check(gauge{
		rule: "pool", what: "connections in use", warn: targetPool, critical: 1, show: percent,
		why: "a full pool makes every request wait that needs the database",
	}, list)
	e.check(gauge{
		rule: "pool-wait", what: "mean wait for a connection", warn: 0.01, critical: 0.5, show: milliseconds,
		why: "requests wait for one another, not for the database",
	}, waits)
}

func (e *exam) queues() {
	var list []reading
	for _, s := range e.alive() {
		list = append(list, reading{name(s), float64(s.Queued), "", scale(s, e.count(s)+1)})
	}
	e.check(gauge{
		rule: "queue", what: "queued writes", warn: targetQueue, critical: 10 * targetQueue, show: plain,
		why: "more comes in than the owner commits; every write waits for those before it",
	}, list)
}

// processors follows the head of the guide's tree: which role is short of CPU.
func (e *exam) processors() {
	var list []reading
	for _, s := range e.alive() {
		old, seconds := e.since(s)
		if seconds <= 0 || s.CPUs <= 0 {
			continue
		}
		share := (s.CPU - old.CPU) / seconds / s.CPUs
		n := e.count(s)
		more := max(n+1, int(math.Ceil(float64(n)*share/plan.Target)))
		list = append(list, reading{name(s), share, fmt.Sprintf("%.2f of %.2f cores", share*s.CPUs, s.CPUs), scale(s, more)})
	}
	e.check(gauge{
		rule: "cpu", what: "CPU", warn: targetCPU, critical: 0.9, show: percent,
		why: "above it latencies grow fast, and one process less can not be carried by the others",
	}, list)
}

func (e *exam) memory() {
	var list []reading
	for _, s := range e.alive() {
		if s.MemoryLimit > 0 {
			list = append(list, reading{
				name(s), float64(s.Resident) / float64(s.MemoryLimit), size(float64(s.Resident)) + " of " + size(float64(s.MemoryLimit)),
				scale(s, e.count(s)+1) + ", or raise its memory limit",
			})
		}
	}
	e.check(gauge{rule: "memory", what: "memory", warn: limitMemory, critical: 0.95, show: percent, why: "at its limit a process is killed"},
		list)
}

// delivery is the guide's stream latency and, above a second, its replication lag.
func (e *exam) delivery() {
	var list []reading
	var sync status.Histogram
	for _, s := range e.alive() {
		old, _ := e.since(s)
		h := s.Delivery.Minus(old.Delivery)
		if s.Has("sync") {
			sync = sync.Plus(h)
		}
		if h.Count >= leastRequests {
			list = append(list, reading{name(s), h.Quantile(0.95), fmt.Sprintf("%d rows", h.Count), "if its CPU is high: " + scale(s, e.count(s)+1) +
				"; else look at Redis"})
		}
	}
	e.check(gauge{
		rule: "stream-delivery", what: "delivery of rows p95", warn: targetDelivery, critical: targetLag, show: milliseconds,
		why: "from the writing of a row to its arrival in this process; above 1 s it is the guide's replication lag",
	}, list)
	h, what := e.given.SyncAfter.Minus(e.given.SyncBefore), "/sync p95 without waiting"
	if h.Count == 0 {
		h, what = sync, "news on its way to waiting /sync requests p95"
	}
	if h.Count >= leastRequests {
		e.check(gauge{
			rule: "sync", what: what, warn: targetSync, critical: 4 * targetSync, show: milliseconds,
			why: "a /sync request waits by design, so the time it waits is not counted: only what it takes from the news to the answer",
		}, []reading{{"role sync", h.Quantile(0.95), "", fmt.Sprintf("lyceum scale sync=%d", e.with("sync")+1)}})
	}
}

// with is how many processes have a role.
func (e *exam) with(role string) (n int) {
	for _, s := range e.alive() {
		if s.Has(role) {
			n++
		}
	}
	return n
}

func (e *exam) behind() {
	var list []reading
	for _, s := range e.alive() {
		for _, st := range s.Streams {
			total, worst, at := int64(0), int64(-1), 0
			for i, shard := range st.Shards {
				total += shard.Behind
				if shard.Behind > worst {
					worst, at = shard.Behind, i
				}
			}
			detail := ""
			if total > 0 {
				detail = fmt.Sprintf("shard %d most: %d", at, worst)
			}
			list = append(list, reading{fmt.Sprintf("%s, stream %s", name(s), st.Name), float64(total), detail, "if its CPU is high: " +
				scale(s, e.count(s)+1) + "; if it is alone behind: lyceum restart " + fmt.Sprint(s.Machine)})
		}
	}
	e.check(gauge{
		rule: "replication", what: "rows not yet seen", warn: targetBehind, critical: 20 * targetBehind, show: plain,
		why: "its clients do not see them either",
	}, list)
}

func (e *exam) redis() {
	var list []reading
	for _, s := range e.alive() {
		old, _ := e.since(s)
		if h := s.Redis.Minus(old.Redis); h.Count >= leastRequests {
			list = append(list, reading{name(s), h.Quantile(0.95), "", "look at Redis: its CPU (one core), slow commands (SLOWLOG), " +
				"the network to it"})
		}
	}
	e.check(gauge{
		rule: "redis", what: "round trip to Redis p95", warn: targetRedis, critical: 1, show: milliseconds,
		why: "news and reads that must be fresh wait for it",
	}, list)
	for _, s := range e.alive() {
		if s.Degraded {
			e.add(Finding{
				Severity: Warning, Rule: "redis-mute", Where: name(s), What: "it does not reach Redis",
				Why: "it works on from the database, slower: its readers see news only when they look",
				Do:  "check the network and the password between it and redis.addresses",
			})
		}
	}
}

func (e *exam) blob() {
	var list []reading
	for _, s := range e.alive() {
		old, _ := e.since(s)
		if h := s.Blob.Minus(old.Blob); h.Count >= leastRequests {
			list = append(list, reading{name(s), h.Quantile(0.95), "", "look at the blob store: its load, " +
				"the network to it; more media processes would not help"})
		}
	}
	e.check(gauge{
		rule: "blob", what: "blob store p95", warn: targetBlob, critical: 10 * targetBlob, show: milliseconds,
		why: "every download and upload waits for it",
	}, list)
}

// kind sorts the routes: those that wait by design are not timed, media has a target of its own.
func kind(r status.Route) string {
	p := r.Pattern
	switch {
	case strings.Contains(p, "/sync") || strings.HasSuffix(p, "/events") || strings.Contains(p, "/status/live"):
		return "waits"
	case strings.Contains(p, "/upload") && strings.Contains(p, "/media/") || strings.Contains(p, "/download") ||
		strings.Contains(p, "/thumbnail"):
		return "media"
	}
	return "api"
}

// series are the routes of the fleet between the samples, all processes together; a request that is passed on counts once.
func (e *exam) series() (out []status.Route) {
	index := map[string]int{}
	for _, s := range e.alive() {
		old, _ := e.since(s)
		earlier := map[string]status.Route{}
		for _, r := range old.Routes {
			if !r.Hop {
				earlier[r.Role+" "+r.Pattern] = r
			}
		}
		for _, r := range s.Routes {
			if r.Hop { // the process that passed them on tells of them
				continue
			}
			id := r.Role + " " + r.Pattern
			was := earlier[id]
			d := status.Route{Pattern: r.Pattern, Role: r.Role, ByCode: map[string]float64{}, Latency: r.Latency.Minus(was.Latency)}
			for code, n := range r.ByCode {
				d.ByCode[code] = n
				if was.ByCode[code] <= n {
					d.ByCode[code] -= was.ByCode[code]
				}
			}
			i, ok := index[id]
			if !ok {
				index[id] = len(out)
				out = append(out, d)
				continue
			}
			out[i].Latency = out[i].Latency.Plus(d.Latency)
			for code, n := range d.ByCode {
				out[i].ByCode[code] += n
			}
		}
	}
	return out
}

func (e *exam) requests() {
	lists := map[string][]reading{}
	for _, r := range e.series() {
		if r.Latency.Count < leastRequests {
			continue
		}
		lists[kind(r)] = append(lists[kind(r)], reading{
			fmt.Sprintf("role %s, %s", r.Role, r.Pattern), r.Latency.Quantile(0.95), fmt.Sprintf("%d requests", r.Latency.Count),
			fmt.Sprintf("if its processes are short of CPU: lyceum scale %s=%d; else see what is slow below it", r.Role, e.with(r.Role)+1),
		})
	}
	e.check(gauge{
		rule: "api", what: "requests p95", warn: targetAPI, critical: 5 * targetAPI, show: milliseconds,
		why: "people notice waiting from about a second on",
	}, lists["api"])
	e.check(gauge{
		rule: "media", what: "uploads and downloads p95", warn: targetMedia, critical: 5 * targetMedia, show: milliseconds,
		why: "the guide's target is for 1 MB; large files and slow clients take longer",
	}, lists["media"])
}

func (e *exam) errorRates() {
	var list []reading
	for _, r := range e.series() {
		total := 0.0
		for _, n := range r.ByCode {
			total += n
		}
		if total >= leastRequests {
			list = append(list, reading{
				fmt.Sprintf("role %s, %s", r.Role, r.Pattern), r.ByCode["5xx"] / total, fmt.Sprintf("%.0f of %.0f", r.ByCode["5xx"], total),
				fmt.Sprintf("lyceum logs %s: each failed request is logged with its cause", r.Role),
			})
		}
	}
	e.check(gauge{
		rule: "errors", what: "requests that failed (5xx)", warn: targetErrors, critical: 5 * targetErrors, show: percent,
		why: "the server's fault, not the client's",
	}, list)
}

// rates compares requests per second with what a process was measured to take: the guide's 50 a worker are Synapse's.
func (e *exam) rates() {
	c := e.given.Capacities
	if c == nil {
		c = plan.Default()
	}
	perCore := c.Operations[plan.OpRequest].PerCore
	if perCore == 0 {
		return
	}
	var list []reading
	for _, s := range e.alive() {
		old, seconds := e.since(s)
		if seconds <= 0 || s.CPUs <= 0 {
			continue
		}
		before := map[string]uint64{}
		id := func(r status.Route) string { return fmt.Sprint(r.Role, " ", r.Pattern, r.Hop) }
		for _, r := range old.Routes {
			before[id(r)] = r.Latency.Count
		}
		n := uint64(0)
		for _, r := range s.Routes {
			if was := before[id(r)]; kind(r) == "api" && r.Latency.Count >= was {
				n += r.Latency.Count - was
			}
		}
		rate := float64(n) / seconds
		list = append(list, reading{
			name(s), rate / (perCore * s.CPUs),
			fmt.Sprintf("%.0f/s where %.0f/s were measured on %.1f cores", rate, perCore*s.CPUs, s.CPUs), scale(s, e.count(s)+1),
		})
	}
	e.check(gauge{
		rule: "request-rate", what: "requests, of what was measured to be the most", warn: targetCPU, show: percent,
		why: "the guide's 50 requests/s a worker are for Synapse; this is the same question asked of Lyceum's measured capacity",
	}, list)
}

func (e *exam) hops() {
	hops, requests := 0.0, 0.0
	for _, s := range e.alive() {
		old, _ := e.since(s)
		hops += max(0, s.Hops-old.Hops)
	}
	for _, r := range e.series() {
		for _, n := range r.ByCode {
			requests += n
		}
	}
	routers := 0
	for _, s := range e.alive() {
		if len(s.Roles) == 1 && s.Roles[0] == "router" {
			routers++
		}
	}
	if requests < 10*leastRequests || routers > 0 {
		return // routers pass on everything, by design
	}
	if share := hops / requests; share >= targetHops {
		e.add(Finding{
			Severity: Note, Rule: "hops", Where: "load balancer", What: fmt.Sprintf("%s of the requests were passed on to another process, "+
				"expected under %s", percent(share), percent(targetHops)),
			Why: "nothing breaks, but each hop costs about 0.2 ms and CPU twice", Do: "lyceum render haproxy (or nginx, caddy, gateway): " +
				"it balances by the right key",
		})
	} else {
		e.add(Finding{Severity: OK, Rule: "hops", Where: "load balancer", What: fmt.Sprintf("%s of the requests were passed on, "+
			"expected under %s", percent(share), percent(targetHops))})
	}
}
