// Package rooms owns rooms: their events, state, membership, aliases, relations and redactions.
//
// Sending an event, from the request to the row, is this chain of functions. Each is called by the one before it:
//
//	putSend          http_send.go          reads the request (putState and putRedact join the chain at sendAs and Send)
//	sendAs           http_send.go          refuses suspended users, gives the request its transaction id
//	Rooms.Send       send.go               goes to the owner of the room's shard: role.CallOwner calls appendEvent here or there
//	appendEvent      send.go               checks the conditions (precheck.go), builds and authorises the event (buildEvent),
//	                                       appends it to the stream with owned.Change.Append, and waits until it is stored
//	eventStore.Insert  store_events.go     writes the events of one group commit in one transaction
//
// Tables: rooms, events, state_nodes, memberships, relations, aliases, room_upgrades. The
// migrations also make the table of package reports.
//
// Stream: events, sharded by room id. The table events is the stream's own table: the row of an event has its shard and position.
// The owner of a shard builds the events of its rooms one after the other, against the state that it keeps in memory (room.go). It
// need not wait for one event to be stored before it builds the next.
//
// Role: events, whose processes share the shards. Processes of the role client read. Two jobs run in one process of the fleet:
// rooms.upgrades finishes upgrades, and rooms.profiles renews memberships that were made of an old profile.
//
// Invariants:
//   - The positions of a room's events grow, in one shard.
//   - The root of an event is the state after it; the root of the newest event is the current state.
//   - (room, sender, device, transaction) is unique, so a request that is made again finds the event that it made.
//   - What a user gets of a room is decided in access.go alone.
//
// The main types, in reading order:
//
//	Event            an event with what the server knows of it: position, root, what it replaced
//	Send             a request for a new event, with the conditions under which it is sent
//	room             the newest state of a room in the memory of its owner; includes events that are not stored yet
//	Head             the newest event of a room in the database
//	membershipView   a user's membership of a room, and until when the user was a member
//	roomView         what a user gets of a room: which state, and up to which position
//	Visibility       whether a user sees one event, and the user's membership at it
//	visibleRanges    the positions of a room whose messages a user sees
//	eventRange       the events that a request asks for; eventPage is what it gets
//	ClientOptions    for whom the JSON of an event is written
package rooms
