// Package db is the interface to the SQL engine: SQLite when embedded, PostgreSQL in a fleet.
//
// SQL is written once, in PostgreSQL's style ($1 placeholders, = ANY($1) for lists), and must run on both. The few differences live in
// sqlite.go and postgres.go. A write transaction is durable when Tx returns nil. Not promised: the order of rows without ORDER BY, and the
// outcome of a transaction whose connection was lost during the commit (*CommitError); Settle finds it out.
//
// The main types, in reading order:
//
//   - [DB] is an open database with its pools; [Tx] is a write transaction; [Querier] is what both can run.
//   - [Batch] collects the statements of a [DB.Write], which is one round trip. [Table] and [Newest] describe its bulk inserts.
//   - [Migrations] are the steps of a domain's schema.
//   - gate (fair.go) shares the connections between callers; broken (broken.go) ends sessions whose connection broke.
package db
