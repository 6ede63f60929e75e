// Package typing owns who is typing in which room.
//
// Table: typing. Stream: typing, sharded by room id; the table is the stream's own and compacted to one row
// for each room. Role: typing, whose processes share the shards.
//
// A row holds all who type in the room, each with the time at which that ends. The owner of a shard keeps the rooms in which somebody types
// in memory (owner.go) and appends a row when somebody stops, also by a time-out or by leaving the room, which the room's owner tells it. A
// new owner reads the rows and goes on.
package typing
