// Package dbfault breaks the way to a real database, for tests: it holds the group commits of the stream writer and
// lets each end as a test decides, as disks and networks do. Engine and client are untouched, so what a client can
// not know of the outcome is unknown for real.
//
// For PostgreSQL a Proxy stands before the server and reads the frames of its protocol. A group commit is a
// transaction in which a statement moves leases.pos; its last message is held: COMMIT, or the Sync that ends a batch
// without BEGIN. Besides, it can cut, freeze and keep answers of the past. For SQLite a driver stands around the
// engine's (NewSQLite) and holds Commit.
package dbfault
