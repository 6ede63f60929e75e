// Package lease is the seam that says which process owns what: machine ids, shards of streams, and jobs that run in one
// process at a time.
//
// A process registers as a machine and keeps its registration alive by a heartbeat. A lease is a named row with an epoch,
// which goes up with each new owner, and a position, which the owner moves forward. A writer calls Advance inside its
// transaction: when another process has taken the lease since, the epoch differs, the write returns ErrLost and nothing is
// committed. So at most one epoch of a name can write, however long its owner was paused.
//
// Embedded (one process over SQLite), every lease is granted at once and nothing is renewed.
//
// The main types, in reading order:
//
//   - [Machine] is one process of the fleet; its Metadata is a text that the others may read.
//   - [Lease] is the right to write under a name; [Holder] is the process that had it when the view was last read.
//   - [Leases] is this process's registration and its view: the machines and holders as last read ([Leases.Refresh]).
//
// A machine is degraded while the bus does not carry its rows. A process is the only member while no other is registered and
// none can become so unnoticed (only.go).
//
// When a process dies: a connection to it breaks → rpc OnLost → Suspect → Wake, or its session ends, or its heartbeats stop; then Run →
// Refresh → readView → withoutDead leaves it out of the view → notify closes Changed → packages stream and role Acquire its leases. Its own
// transactions fail with ErrLost from then on (Advance).
//
// When a process joins: Open → register (noteJoined) → WaitUntilKnown (heartbeatUnlessKnown) → Acquire → Ready.
//
// Tables: machines, leases, fleet; and parked_rows, which package stream uses.
package lease
