// Package receipts owns what people have read: read receipts, and the read marker of a room.
//
// Table: receipts. Stream: receipts, sharded by room id; the table is the stream's own and compacted, so it
// holds the newest receipt of each room, user, type and thread. Role: receipts, whose processes share the
// shards. The read marker m.fully_read is account data of the room and is stored by package accounts.
//
// Invariant: a receipt never moves to an older event. The owner of a shard remembers where the receipts
// stand that it wrote lately (marks), ahead of the database by what is queued.
package receipts
