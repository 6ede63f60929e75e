// Package db is the seam to the SQL engine: SQLite when embedded, PostgreSQL in a fleet.
//
// SQL is written once, in PostgreSQL's style ($1 placeholders, = ANY($1) for lists), and must run on
// both. The few differences live in sqlite.go and postgres.go. A write transaction is durable when Tx
// returns nil. Not promised: the order of rows without ORDER BY, and anything about a transaction whose
// commit failed with a lost connection; the caller who must know reads it back (see package stream).
package db
