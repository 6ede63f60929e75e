// Package stream keeps ordered logs that are cut into shards: everything that happens is a row of a stream.
//
// A key (room, user, document) hashes to one shard. One process owns a shard at a time, by a lease, and gives its rows the
// positions 1, 2, 3, … without a gap. All that is pending for the shards of a process is written by one transaction (group
// commit). It also advances the leases, and so fails when another process has taken one over.
//
// A process receives every row of every shard of the streams that its roles need, once and in order, through Subscribe: its
// own rows directly, those of others over the bus. It does not receive the other streams until a request needs them
// (Subscription.Start). The bus is a hint: a reader that sees a gap in the positions, or lost its connection, reads the rows
// from the database.
//
// Barrier returns when this process's subscriptions have seen all that any process acknowledged before the call: a request
// that begins with it reads its user's own writes, whichever process took them.
//
// The main types, in reading order:
//
//   - [Spec] declares a stream and [Store] keeps its rows; [Streams.Open] gives the [Stream] of this process.
//   - [Entry] is a row to be written and [Row] one that was; [Ticket] stands for queued entries, and [Basis] for the state
//     of a key upon which entries are built.
//   - [Subscription] reads a stream in every process; [Consumer] works off its rows in one process of the fleet at a time,
//     with a stored cursor, and parks rows whose work fails (table parked_rows, in the migrations of package lease).
//   - [Layout] encodes positions of several streams as a token for clients.
//
// The path of an entry: Append → Enqueue → lane.queue → runLane → takeBatch → commit → write (assignPositions, Leases.Advance,
// Store.Insert) → committed (deliver: this process's subscriptions see the rows) → completeAll → publish → complete → Ticket.Wait.
//
// The path of a row in another process: Bus → Stream.receive → accept → dispatch → Subscription.onRows, for example the function of
// package syncapi that signals waiting requests. A gap in the positions → catchUp, which reads the rows from the store.
//
// When an owner dies: its connections break → rpc OnLost → lease.Leases.Suspect → Wake → Run → Refresh (withoutDead) → notify →
// Streams.maintain → rebalance → Leases.Acquire → publish of the high-water marks → takeOwnership. When an owner is only slow or cut off,
// its registration expires and Refresh does not return it any more; its next commit fails with lease.ErrLost → giveUpLost → giveUp →
// OnLost.
//
// A process is degraded while the bus does not carry its rows: Barrier then reads the high-water marks, the stored positions
// of all shards, from the database.
package stream
