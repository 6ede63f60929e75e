// Package opstest runs the binary for tests: servers of one process or of lyceum up, over SQLite or PostgreSQL, commands over
// them, and their users. A package that uses Program calls Main in its TestMain.
package opstest
