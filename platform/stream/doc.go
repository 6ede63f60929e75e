// Package stream keeps ordered logs cut in shards: everything that happens is a row of a stream.
//
// A key (room, user, document) hashes to one shard. One process owns a shard at a time, by a lease, and
// gives its rows the positions 1, 2, 3, … without a gap. All that is pending for the shards of a process
// is written by one transaction (group commit), which also moves the leases forward and so fails when
// another process has taken one over.
//
// A process receives every row of every shard of the streams that its roles need, once and in order, through Subscribe:
// its own rows directly, those of others over the bus. It does not subscribe to the others; a tail that a request needs
// after all is started then (Subscription.Start). The bus is a hint. A reader that sees a gap in the positions,
// or was cut off, reads the rows from the database.
//
// Barrier returns when this process's tails have seen all that any process acknowledged before the call:
// a request that begins with it reads its user's own writes, whichever process took them.
package stream
