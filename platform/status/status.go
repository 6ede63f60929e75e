package status

import (
	"slices"
	"time"
)

// Fleet is all that is known at one moment.
type Fleet struct {
	At        time.Time `json:"at"`
	Server    string    `json:"server"`
	Version   string    `json:"version"` // of the fleet: that of machine 0, or of the process that was asked
	Processes []Sample  `json:"processes"`
	Streams   []Stream  `json:"streams"`
	Jobs      []Lease   `json:"jobs"`      // background work and who does it
	Consumers []Stream  `json:"consumers"` // what is done after each row of a stream, and by whom
	Database  Engine    `json:"database"`
	Redis     Engine    `json:"redis"`
	Blob      Engine    `json:"blob"`
	Stopped   bool      `json:"stopped,omitempty"` // no process serves: this is what the command itself read from the database
	Rollout   *Rollout  `json:"rollout,omitempty"` // the upgrade under way, or the last one
}

// Sample is what one process tells of itself. Counters are since its start.
type Sample struct {
	At          time.Time       `json:"at"`
	Machine     int             `json:"machine"`
	Incarnation int64           `json:"incarnation"`
	Host        string          `json:"host"` // for people: host name and process id
	Address     string          `json:"address"`
	Version     string          `json:"version"`
	Roles       []string        `json:"roles"`
	Started     time.Time       `json:"started"`
	Ready       bool            `json:"ready"`
	Draining    bool            `json:"draining"`
	Degraded    bool            `json:"mute"` // it does not reach Redis
	CPU         float64         `json:"cpu_seconds"`
	CPUs        float64         `json:"cpus"` // it may use so many
	Resident    int64           `json:"resident_bytes"`
	MemoryLimit int64           `json:"memory_limit_bytes"` // 0: none
	Goroutines  int             `json:"goroutines"`
	Files       int64           `json:"open_files"`
	MaxFiles    int64           `json:"max_files"`
	ClockAhead  float64         `json:"clock_ahead_seconds"` // its clock minus the database's
	Routes      []Route         `json:"routes"`
	Streams     []ProcessStream `json:"streams"`
	Queued      int             `json:"queued_writes"`
	Commit      Histogram       `json:"commit"`    // time of a group commit
	Delivery    Histogram       `json:"delivery"`  // of the rows of all streams
	SyncWork    Histogram       `json:"sync_work"` // time that /sync requests worked, without their wait for news
	Pool        Pool            `json:"database_pool"`
	Redis       Histogram       `json:"redis"` // time of a round trip
	Blob        Histogram       `json:"blob"`  // time to the first byte of the blob store
	Hops        float64         `json:"hops"`  // requests passed on to another process
	Public      string          `json:"public_listener,omitempty"`
	Internal    string          `json:"internal_listener,omitempty"`
	Ops         string          `json:"ops_listener,omitempty"`
	Scratch     string          `json:"scratch_filesystem,omitempty"` // type of the file system under server.data, such as ext4 or nfs
	ScratchFree int64           `json:"scratch_free_bytes"`
	Untrusted   []string        `json:"untrusted_proxies,omitempty"` // addresses that passed requests on and are not in http.trusted_proxies
	Error       string          `json:"error,omitempty"`             // the process did not answer; only what its lease says is set
}

// Has tells whether the process has a role.
func (s *Sample) Has(role string) bool {
	return slices.Contains(s.Roles, role) || slices.Contains(s.Roles, "all")
}

// Route is the series of one route.
type Route struct {
	Pattern  string             `json:"pattern"`
	Role     string             `json:"role"`
	Hop      bool               `json:"hop,omitempty"` // these were passed on by another process, which counts them too
	ByCode   map[string]float64 `json:"by_code"`       // requests by class of status: 2xx, 4xx, ...
	Latency  Histogram          `json:"latency"`       // of all classes
	InFlight float64            `json:"in_flight"`
}

// Like reports whether two routes are the same series.
func (r *Route) Like(other *Route) bool {
	return r.Pattern == other.Pattern && r.Role == other.Role && r.Hop == other.Hop
}

// Histogram is a Prometheus histogram: Counts[i] requests took Bounds[i] seconds or less; Count counts all.
type Histogram struct {
	Bounds []float64 `json:"bounds,omitempty"`
	Counts []uint64  `json:"counts,omitempty"`
	Count  uint64    `json:"count"`
	Sum    float64   `json:"sum_seconds"`
}

// Pool is a pool of connections to the database.
type Pool struct {
	InUse       int     `json:"in_use"`
	Open        int     `json:"open"`
	Max         int     `json:"max"`
	Waits       int64   `json:"waits"`        // how often a request waited for a connection
	WaitSeconds float64 `json:"wait_seconds"` // how long in all
}

// ProcessStream is what a process has seen of a stream.
type ProcessStream struct {
	Name     string         `json:"name"`
	Shards   []ProcessShard `json:"shards"`
	Delivery Histogram      `json:"delivery"` // time from the writing of a row to its arrival here
}

// ProcessShard is one shard as one process sees it.
type ProcessShard struct {
	Position int64   `json:"position"` // the last row seen
	Behind   int64   `json:"behind"`   // rows known to exist and not seen
	Owned    bool    `json:"owned"`
	Rows     float64 `json:"rows"` // written by this process
}

// Stream is a stream and the owners of its shards.
type Stream struct {
	Name   string  `json:"name"`
	Role   string  `json:"role"`
	Shards []Shard `json:"shards"`
}

// Shard is one shard as its lease says.
type Shard struct {
	Machine  int   `json:"machine"` // -1: nobody owns it
	Epoch    int64 `json:"epoch"`
	Position int64 `json:"position"` // stored
}

// Lease is who holds a lease.
type Lease struct {
	Name    string `json:"name"`
	Machine int    `json:"machine"`
	Epoch   int64  `json:"epoch"`
}

// Engine is one of the engines under the fleet, as the process that was asked sees it.
type Engine struct {
	Kind        string             `json:"kind"`    // postgresql, sqlite, redis, local, s3, directory
	Address     string             `json:"address"` // without user and password
	Version     string             `json:"version,omitempty"`
	RoundTrip   float64            `json:"round_trip_seconds"` // of a probe just made
	Protected   bool               `json:"protected"`          // it asks for a password or another proof
	Encrypted   bool               `json:"encrypted"`          // the connection is TLS, or stays on this machine
	Connections int                `json:"connections"`
	MaxConn     int                `json:"max_connections"`
	Memory      int64              `json:"memory_bytes"`
	MaxMemory   int64              `json:"max_memory_bytes"` // 0: none set
	Size        int64              `json:"size_bytes"`
	Extra       map[string]float64 `json:"extra,omitempty"` // such as replication_lag_seconds
	Error       string             `json:"error,omitempty"`
}

// Rollout is an upgrade of the fleet.
type Rollout struct {
	From    string    `json:"from"`
	To      string    `json:"to"`
	State   string    `json:"state"` // running, done, rolled back, failed
	Done    int       `json:"done"`  // processes upgraded
	Of      int       `json:"of"`
	Now     string    `json:"now,omitempty"` // the process that is being restarted
	Reason  string    `json:"reason,omitempty"`
	Started time.Time `json:"started"`
	Changed time.Time `json:"changed"`
}

// Quantile estimates the value in seconds below which a share q (0 to 1) of the observations lies, by
// interpolation in its bucket; 0 when there are none.
func (h Histogram) Quantile(q float64) float64 {
	if h.Count == 0 {
		return 0
	}
	rank := q * float64(h.Count)
	low, before := 0.0, uint64(0)
	for i, bound := range h.Bounds {
		if float64(h.Counts[i]) >= rank {
			in := float64(h.Counts[i] - before)
			if in == 0 {
				return bound
			}
			return low + (bound-low)*(rank-float64(before))/in
		}
		low, before = bound, h.Counts[i]
	}
	return low // above the last bound: at least that
}

// Minus is what was observed between an earlier sample and this one. When the process started anew
// between them, it is this one.
func (h Histogram) Minus(earlier Histogram) Histogram {
	if earlier.Count > h.Count || len(earlier.Counts) != len(h.Counts) {
		return h
	}
	out := Histogram{Bounds: h.Bounds, Counts: make([]uint64, len(h.Counts)), Count: h.Count - earlier.Count, Sum: h.Sum - earlier.Sum}
	for i := range h.Counts {
		out.Counts[i] = h.Counts[i] - min(earlier.Counts[i], h.Counts[i])
	}
	return out
}

// Plus adds the observations of another process with the same bounds.
func (h Histogram) Plus(other Histogram) Histogram {
	if h.Count == 0 {
		return other
	}
	if other.Count == 0 || len(other.Counts) != len(h.Counts) {
		return h
	}
	out := Histogram{Bounds: h.Bounds, Counts: make([]uint64, len(h.Counts)), Count: h.Count + other.Count, Sum: h.Sum + other.Sum}
	for i := range h.Counts {
		out.Counts[i] = h.Counts[i] + other.Counts[i]
	}
	return out
}
