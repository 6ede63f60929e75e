package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

const month = 30 * 86400.0 // seconds

// fewConnections is what PostgreSQL is asked to hold at most: each connection is a process of it.
const fewConnections = 500

// engines plans what stands under the fleet.
func (p *planner) engines() {
	var pgCores, redisCores, pgBytes, redisBytes, in, out float64
	for _, d := range p.ds {
		op, ok := p.caps.Operations[d.op]
		if !ok {
			continue
		}
		pgCores += d.rate * d.weight * op.CPU[Database] / 1000
		redisCores += d.rate * d.weight * op.CPU[Redis] / 1000
		pgBytes += d.rate * op.DatabaseBytes
		// What was measured went to one process of each role; it grows with the processes that listen.
		redisBytes += d.rate * op.RedisBytes * max(1, float64(p.Processes)/float64(max(1, len(p.caps.Processes))))
		out += d.rate * op.AnswerBytes
	}
	l, h := p.Load, p.Load.Habits
	uploads := l.UploadsPerDay * h.PeakFactor / 86400
	in += l.MessagesPerSecond*1500 + uploads*l.UploadSize
	out += uploads * h.Downloads * l.UploadSize
	p.Network = NetworkPlan{In: 8 * in, Out: 8 * out}

	connections := int(p.caps.Connections)
	if p.Shape != "one" && p.Processes*connections > fewConnections {
		connections = max(4, fewConnections/p.Processes)
	}
	growth := pgBytes / h.PeakFactor * month
	d := DatabasePlan{
		CPU: max(1, math.Ceil(pgCores/DatabaseTarget*2)/2), Connections: connections,
		MaxConnections: roundUp(p.Processes*connections+20, 50), GrowthPerMonth: growth,
	}
	d.SharedBuffers = roundUpBytes(min(max(256*mib, growth/30/4), 16*gib), 256*mib)
	d.Memory = roundUpBytes(3*d.SharedBuffers+float64(d.MaxConnections)*8*mib, gib)
	d.Why = fmt.Sprintf("%s busy cores at %.0f %%; %d × %d connections and 20 to spare; buffers for a quarter of a day's growth, "+
		"three times that in all, and 8 MiB a connection",
		number(pgCores), 100*DatabaseTarget, p.Processes, connections)
	p.Database = d

	p.Redis = RedisPlan{
		CPU: max(0.5, math.Ceil(redisCores/DatabaseTarget*2)/2), BytesPerSecond: redisBytes,
		Memory: roundUpBytes(64*mib+10*redisBytes+2048*l.ConcurrentUsers, 64*mib),
	}
	p.Redis.Why = fmt.Sprintf("%s busy cores; %s/s to all who listen, ten seconds of which may wait for slow ones; "+
		"2 KiB a user for limits. It holds nothing that is not in the database.", number(redisCores), size(redisBytes))

	p.Blob = BlobPlan{GrowthPerMonth: l.UploadsPerDay * 30 * l.UploadSize * 1.1, Requests: uploads * (1 + h.Downloads + 2*h.Thumbnails)}
	p.Blob.Why = fmt.Sprintf("%s uploads a day of %s, a tenth more for thumbnails; equal files are kept once and not counted off",
		number(l.UploadsPerDay), size(l.UploadSize))
}

// notes are what else must be known.
func (p *planner) notes() {
	p.noteMissingRoles()
	p.noteEngines()
	for _, r := range p.roles {
		if w := workOf(r.Name, p.ds, p.caps, p.ownPools); Target*p.Load.Cores-w.perProcess < 0.1 && r.Pool == "" {
			p.note("a process of %s spends %s cores on news alone: plan with larger processes (--cores)", r.Name, number(w.perProcess))
		}
	}
	p.noteMeasurement()
}

func (p *planner) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// noteMissingRoles names load for which this build has no role.
func (p *planner) noteMissingRoles() {
	has := func(name string) bool {
		return slices.ContainsFunc(p.roles, func(r Role) bool { return strings.Contains(r.Name, name) })
	}
	if p.Load.FederatedServers > 0 && !has("federation") {
		p.note("%s federated servers: this build has no role that speaks to other servers, so nothing is planned for them",
			number(p.Load.FederatedServers))
	}
	if p.Load.Editors > 0 && !has("projects") {
		p.note("%s editors: this build has no role for documents, so nothing is planned for them", number(p.Load.Editors))
	}
	if p.Load.Compiles > 0 && !has("compile") {
		p.note("%s compiles: this build has no role that compiles, so nothing is planned for them", number(p.Load.Compiles))
	}
	if (p.Load.Editors > 0 && has("projects") || p.Load.Compiles > 0 && has("compile")) && p.caps.Operations[OpEdit].Count == 0 {
		p.note("editing and compiling were not measured: 5,000 edits a second and one compile per core are estimates")
	}
}

// noteEngines says what PostgreSQL and Redis need beside their size.
func (p *planner) noteEngines() {
	if p.Database.Connections < int(p.caps.Connections) {
		p.note("set database.connections to %d, so that PostgreSQL holds %d connections and not %d", p.Database.Connections,
			p.Processes*p.Database.Connections, p.Processes*int(p.caps.Connections))
	}
	if p.Database.Connections*p.Processes > fewConnections {
		p.note("PostgreSQL gets more than %d connections: put a pooler in session mode before it, or use fewer and larger processes (--cores)",
			fewConnections)
	}
	if p.Database.CPU > 32 {
		p.note("PostgreSQL needs %s cores: the largest single part of this fleet; use fast local disks and measure it before growing further",
			number(p.Database.CPU))
	}
	if p.Redis.CPU > 1 {
		p.note("Redis runs its commands on one core: it would need %s; use a Redis Cluster (redis.addresses)", number(p.Redis.CPU))
	}
}

// noteMeasurement says how far the figures can be trusted.
func (p *planner) noteMeasurement() {
	if p.Load.ConcurrentUsers > 20000 {
		p.note("beyond 20,000 users neither the guide nor a measurement says anything: these figures are the measured costs, multiplied")
	}
	if p.usesReleaseSizes {
		p.note("the growth of the database was not measured: it is that of the release's capacities")
	}
	if p.Measured.Quick {
		p.note("the capacities were measured with --quick: they are rough")
	}
	if strings.HasPrefix(p.Measured.Shape, "alone") || strings.HasPrefix(p.Measured.Shape, "given") {
		p.note("the capacities were measured on one process with every role: routers, PostgreSQL and Redis are not told apart in them; " +
			"calibrate a private fleet for that")
	}
}

func roundUp(n, step int) int { return (n + step - 1) / step * step }

func roundUpBytes(n, step float64) float64 { return math.Ceil(n/step) * step }
