// Package engines starts private PostgreSQL, Redis and S3 servers from the programs installed on the machine.
//
// They are plain child processes on free loopback ports with their data in a directory of the caller.
// Tests and "lyceum up" use them; a production fleet is given the addresses of servers run by others.
// A server ends with Stop, with Kill, or, on Linux, when the process that started it dies.
package engines
