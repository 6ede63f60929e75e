// Package syncapi answers /sync: it reads every stream and appends to none.
//
// A process that serves /sync keeps in memory, fed by its subscriptions, windows of the newest rows of each room (window.go), and the
// rooms of the users that it serves (users.go). A client that is connected is answered from there without a statement to the database.
// Older rows are read from the domains. The JSON of an event is made once and copied to all who receive it.
//
// A token has the positions of the client in all shards that matter to its user (token.go), so any process can go on where another
// stopped, also one of another version (design/016).
//
// Answering a request is this chain of functions. Each is called by the one before it, unless it says otherwise:
//
//	getSync               http_sync.go    reads the parameters (parse) and loads the rooms of the user (Sync.user)
//	Sync.serve            poll.go         counts the request and looks up what the client has
//	poll.answer           poll.go         takes a snapshot (takeSnapshot), builds an answer, and returns it or, when it is empty,
//	                                      a park with which package web waits; resume calls it again after a signal
//	query.build           slots.go        waits for a slot, a large one for a large answer, and calls write and that answer
//	query.answer          answer.go       writes the answer: account data, to-device messages, rooms, device lists, presence
//	query.writeRooms      answer.go       for each room that may have news:
//	  joinedRoom          joined.go         a room that the user is joined to
//	  leftRoom            left.go           a room that the user left
//	  strippedRoom        invited.go        an invite or a knock
//	query.section         section.go      reads the part of a room that joinedRoom and leftRoom have in common:
//	  readTimeline        timeline.go       the newest events that pass the filter and that the user may see (extras.go: with their
//	                                        aggregations)
//	  stateChanges        section.go        the state events that the client does not have
//	  addLazyMembers      lazy.go           the memberships that a client needs which loads members lazily
//	query.writeSection    writeroom.go    writes it; joinedRoom adds the summary, ephemeral events (ephemeral.go) and unread counts
//
// News come in by the functions of subscribe.go. They append the row to its window and signal the users whom it concerns (user.signal,
// waiter.go), which wakes their requests. Presence and some device lists can wait: tidy signals for them every two seconds.
//
// Tables: none. Streams: none of its own. Role: sync, balanced by user.
//
// Invariants:
//   - No answer has an event, or depends on a membership, after the positions of its token.
//   - A token never goes back.
//   - Sync.mu is held for short times only: no statement is made under it.
//   - A request that waits holds no scratch memory and no slot.
//   - What an answer contains counts as received only when the client asks with the token of the answer.
//
// The main types, in reading order:
//
//	poll             a request to /sync, which may be answered several times until there are news
//	query            what a request asks for
//	origin           the position from which the client goes on; vector has one position for each shard
//	user             a user whose rooms are in memory, with the requests that wait (waiter)
//	roomMembership   a user's membership of a room; candidateRoom is one that may have news
//	snapshot         positions and memberships at one time; scratch is all memory for building one answer
//	section          timeline, state and summary of a room; sectionRequest says which
//	eventRange       a part of a room's events; timeline is its newest part
//	departure        how a user left a room
//	windows, window  the newest rows of a stream by room; shardWindows by shard
//	sentMembers      the memberships that a device has, for lazy-loading members
//	deviceLists      what changed about the devices of other users
//	fairQueue        the slots for large answers, which users get in turn
//	filter           a Filter of the specification
//	writer           appends JSON
package syncapi
