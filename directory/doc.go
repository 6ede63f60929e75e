// Package directory finds things: rooms in the room directory, rooms of a space, users and messages.
//
// Tables: search_texts and search_rooms (search_people was used before), made from the events stream by a consumer;
// search_positions was used before.
//
// Streams: reads events. Role: client.
//
// Invariants: what was redacted leaves the index; nobody finds a message that the history visibility of
// its room hides from them.
package directory
