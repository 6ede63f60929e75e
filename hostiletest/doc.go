// Package hostiletest asks every route for what belongs to others, and for more than there is room for.
//
// The routes are those of manual/routes.md, which a test holds equal to the program's own table: a new route without
// an entry in this package's tables fails its tests. Both tests run against real processes, over SQLite and over
// PostgreSQL, and compare the database before and after what is refused.
package hostiletest
