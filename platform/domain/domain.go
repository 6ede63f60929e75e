package domain

import (
	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// Domain is what a package declares of itself. All of it is known before a process is wired.
type Domain struct {
	Name       string        // of its package, its migrations and its section of the configuration; it never changes
	Migrations db.Migrations // none: it has no tables
	Config     Section       // none: it has no keys
	Roles      []role.Role
	// Streams and Consumers are completed by With when the domain opens them.
	Streams   []stream.Spec
	Consumers []stream.Consumer
	Blobs     []Blob // every column that names a blob
	Restore   []Rule // every table whose rows are not simply copied by a backup and put back by a restore
}

// Part is a domain at work in a process: what its New gives. If it has metrics too, it is Measured.
type Part interface {
	// Routes is its whole HTTP surface.
	Routes() []web.Route
}

// Measured is a Part with metrics of its own.
type Measured interface {
	Metrics() []prometheus.Collector
}

// Section is a domain's section of the configuration. Keys, defaults, bounds and checks are those of its type; see conf.Section.
type Section struct {
	Help string
	New  func() any // makes an empty one; nil: there is no section
}

// Configured is the section that fills a C.
func Configured[C any](help string) Section { return Section{help, func() any { return new(C) }} }

// Blob is a column whose texts name blobs; "" names none.
type Blob struct {
	Table, Column string
	Prefix        string // of the key, before what the column says
}

// Keys is the query for the keys of the blobs.
func (b Blob) Keys() string {
	return "SELECT '" + b.Prefix + "' || " + b.Column + " FROM " + b.Table + " WHERE " + b.Column + " <> ''"
}

// Rule is for a table whose rows are not simply copied and put back.
type Rule struct {
	Table string
	Rows  string // what they are, for people
	Do    Treatment
}

// Treatment is what happens to the rows of a table.
type Treatment int

// The treatments.
const (
	Skipped   Treatment = iota + 1 // a backup leaves them out
	Dropped                        // a restore leaves them out, unless the backup was the last act of the server
	Rewritten                      // package fleet turns them into the rows of a server that starts
)
