package plan

import (
	_ "embed" // the measured default
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Names of what is not a role in Operation.CPU: the engines, and a process that has every role.
const (
	Database = "database"
	Redis    = "redis"
	AllRoles = "all"
)

// Capacities are what Lyceum was measured to need on some hardware.
type Capacities struct {
	Measured    Provenance           `json:"measured"`
	Operations  map[string]Operation `json:"operations"`
	Processes   map[string]Process   `json:"processes"` // by role
	ClientBytes map[string]float64   `json:"client_bytes"`
	// Listening is the CPU that a process spends on a message that it does not need, in milliseconds.
	Listening   float64 `json:"listening_ms"`
	Connections float64 `json:"connections_per_process"` // to the database, at most
}

// Provenance says where and when capacities were measured.
type Provenance struct {
	At      time.Time `json:"at"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Version string    `json:"version"`
	Shape   string    `json:"shape"` // fleet: one process for each role over PostgreSQL and Redis; alone: one process
	Command string    `json:"command"`
	Quick   bool      `json:"quick,omitempty"` // too short to be exact
}

// Operation is the cost of one kind of work.
type Operation struct {
	Unit          string             `json:"unit"`
	Role          string             `json:"role"`   // that serves it
	CPU           map[string]float64 `json:"cpu_ms"` // of each role and engine, in milliseconds for one
	PerCore       float64            `json:"per_core"`
	DatabaseBytes float64            `json:"database_bytes,omitempty"` // stored for one, with indexes
	RedisBytes    float64            `json:"redis_bytes,omitempty"`    // sent by Redis for one, to all its subscribers
	AnswerBytes   float64            `json:"answer_bytes,omitempty"`
	Count         int64              `json:"count"`
	P50           float64            `json:"p50_ms"`
	P95           float64            `json:"p95_ms"`
}

// Process is a process of a role that has nothing to do.
type Process struct {
	IdleCPU  float64 `json:"idle_cores"`
	Resident float64 `json:"resident_bytes"` // after the loads, without waiting clients
}

// Names of operations.
const (
	OpMessage     = "message"
	OpDelivery    = "delivery"
	OpFirstSync   = "first_sync"
	OpRoom        = "room"
	OpJoin        = "join"
	OpRequest     = "request"
	OpReceipt     = "receipt"
	OpTyping      = "typing"
	OpPresence    = "presence"
	OpToDevice    = "to_device"
	OpAccountData = "account_data"
	OpUpload      = "upload"
	OpDownload    = "download"
	OpThumbnail   = "thumbnail"
	OpEdit        = "edit"
	OpCompile     = "compile"
)

//go:embed default.json
var defaultJSON []byte

// Default are the capacities measured with the release, on two cores.
var Default = sync.OnceValue(func() *Capacities {
	c, err := parse(defaultJSON)
	if err != nil {
		panic(err) // a test reads it
	}
	return c
})

// ReadCapacities reads what Write wrote.
func ReadCapacities(r io.Reader) (*Capacities, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, err
	}
	return parse(b)
}

func parse(b []byte) (*Capacities, error) {
	c := &Capacities{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("capacities: expected the JSON of lyceum bench calibrate: %w", err)
	}
	return c, c.validate()
}

func (c *Capacities) validate() error {
	for _, name := range []string{OpMessage, OpDelivery, OpRequest, OpUpload} {
		if len(c.Operations[name].CPU) == 0 {
			return fmt.Errorf("capacities: the operation %q was not measured: run lyceum bench calibrate again", name)
		}
	}
	if c.Connections <= 0 {
		return errors.New("capacities: connections_per_process: expected more than 0")
	}
	return nil
}

// Write writes the capacities as JSON.
func (c *Capacities) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(c)
}

// cost is the CPU in milliseconds that a role or engine spends on one operation. Where all roles were one
// process, that process's cost is the serving role's: only then nothing tells them apart.
func (c *Capacities) cost(operation, role string) float64 {
	op := c.Operations[operation]
	if v, ok := op.CPU[role]; ok {
		return v
	}
	if role == op.Role {
		return op.CPU[AllRoles]
	}
	return 0
}

func (c *Capacities) resident(role string) float64 {
	if p, ok := c.Processes[role]; ok {
		return p.Resident
	}
	return c.Processes[AllRoles].Resident
}

func (c *Capacities) idle(role string) float64 {
	if p, ok := c.Processes[role]; ok {
		return p.IdleCPU
	}
	return c.Processes[AllRoles].IdleCPU
}

// LoadCapacities reads the capacities of this hardware from a file; "" gives those measured with the release.
func LoadCapacities(path string) (*Capacities, error) {
	if path == "" {
		return Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadCapacities(f)
}
