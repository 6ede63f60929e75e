// Package rooms owns rooms: their events, state, membership, aliases, relations and redactions.
//
// Tables: rooms, events, state_nodes, memberships, relations, aliases, reports.
//
// Stream: events, sharded by room id. The table events is the stream's own table: an event's row has
// its shard and position. The owner of a shard builds, checks and signs the events of its rooms one
// after the other, against the state that it keeps in memory (submit.go), and queues them for the group
// commit (store_events.go); it need not wait for one event to be stored before it builds the next.
//
// Role: events, whose processes share the shards. Reading is done by any process of the role client.
//
// Invariants: the events of a room have growing positions in one shard; an event's root is the state
// after it; the newest event's root is the current state; (room, sender, device, transaction) is unique,
// so a retried request finds the event that it made; what a user gets of a room is decided in access.go alone.
package rooms
