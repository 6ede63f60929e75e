// Package receipts owns what people have read: read receipts, and the read marker of a room.
//
// Table: receipts. Stream: receipts, sharded by room id; the table is the stream's own and compacted, so it
// holds the newest receipt of each room, user, type and thread. Role: receipts, whose processes share the
// shards. The read marker m.fully_read is account data of the room and is stored by package accounts.
//
// Who gets to see a receipt, a private one or one of an ignored user, is decided in syncapi/ephemeral.go.
//
// Invariant: a receipt never moves to an older event. The owner of a shard keeps the positions of receipts in memory (marks.go), ahead of
// the database by the rows that are queued.
package receipts
