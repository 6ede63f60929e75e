// Package syncapi answers /sync: it reads every stream and writes none.
//
// A process that serves /sync keeps in memory, fed by the tails of the streams: the newest rows of each
// room and user (recent.go), and for the users it serves their rooms (users.go). A client that is
// connected is answered from there without a statement to the database; what is older is read from the
// domains. The text of an event is made once and copied to all who receive it.
//
// A token holds the position of every shard that matters to a user (token.go), so any process can go on
// where another stopped, also one of another version (design/016).
//
// Tables: none. Streams: none of its own. Role: sync, balanced by user.
package syncapi
