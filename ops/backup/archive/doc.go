// Package backup copies a database and a blob store at one moment into an archive, and back.
//
// An archive is a tar stream compressed by zstd, in this order: a header, the configuration, the rows of each
// table in pieces, the blobs with a list after every few thousand, and last the manifest. The manifest says
// what must be in it, with hashes, so that an archive without its end is noticed. A directory as
// target has the same archive without blobs, and the blobs as files beside it.
//
// Rows are written by the kinds of their columns and not as an engine stores them: what was read from SQLite
// can be loaded into PostgreSQL, and the other way round. All rows are read in one snapshot of the database.
// Blobs are listed after it; since a blob is stored before the row that names it, each one that
// the snapshot names is there. The hash of a table is the sum of the hashes of its rows, because the
// order in which an engine gives rows means nothing.
//
// A restore reads the whole archive and checks it before it changes anything. Then it stores the blobs, and
// builds and fills all tables in one transaction. When it is interrupted, the database is as it was.
//
// The hashes find damage, not forgery: an archive is trusted like the database it came from.
package archive
