// Package presence owns the presence of users: online, unavailable or offline, with a status message.
//
// Table: presence. Stream: presence, sharded by user id; the table is the stream's own and compacted to one
// row for each user. Role: presence, whose processes share the shards.
//
// A process that serves /sync notes its users' devices in memory (seen.go) and tells the owner of a user
// when a device changes, else once in a while. The owner merges the devices (owner.go) and appends a row
// only when the user's state changes. Devices that it hears nothing of are gone, so a process that dies
// takes its users offline after a while, and a new owner goes on from the rows.
package presence
