// Package enginestest gives tests real PostgreSQL, Redis and S3 servers.
//
// Each kind of server is started once per test binary, when the first test asks, and ends with the binary.
// A test gets a database, key space or bucket of its own. A missing program fails the test and names
// what to install: a test that skips itself proves nothing.
package enginestest
