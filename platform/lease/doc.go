// Package lease is the seam that says who owns what: machine ids, shards of streams, and jobs that run on
// one process at a time.
//
// A process registers as a machine and keeps its registration alive by a heartbeat. A lease is a named row
// with an epoch that goes up with each new owner and a position that the owner moves forward. A writer
// calls Advance inside its transaction: when another process has taken the lease since, the epoch
// differs, ErrLost comes back and the transaction must not be committed. So at most one epoch per
// name can write, however long its owner was paused.
//
// Alone (one process over SQLite) every lease is granted at once and nothing is renewed.
//
// Tables: machines, leases, fleet.
package lease
