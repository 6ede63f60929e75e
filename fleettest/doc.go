// Package fleettest runs one test body against Lyceum in each of its shapes: one process over SQLite, and
// every role in processes of its own over real PostgreSQL, Redis and S3 servers.
//
// The processes are real: the binary is built once for a test binary, and its processes are killed, paused
// and stopped by their tests. A package that uses it hands its TestMain to Main. The shapes are started
// when first asked for and live until all tests of the package are over, so tests make users and
// rooms of their own and leave the fleet as they found it.
package fleettest
