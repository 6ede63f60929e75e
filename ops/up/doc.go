// Package up runs a whole fleet on one machine, for lyceum up.
//
//   - Supervisor starts a Child for each process that Replicas names, PostgreSQL and Redis where nobody gives them (servers.go), and one
//     public socket for all routers. It starts again what ends, with a growing pause.
//   - A Child is a place for a process with its group of roles. Restart puts a new process into it: the new one serves before the old
//     one is told to stop. Scale adds and removes children.
//   - Client asks a running Supervisor over a socket in its data directory (control.go): lyceum ps, scale, restart, stop.
//   - Rollout is lyceum rollout: it replaces all processes by those of another binary, one at a time, and goes back on trouble.
//
// What it keeps in its data directory: a directory for each child with its log, the binaries that processes are made of (programs.go),
// and the configuration with which other commands reach the fleet (access.go).
package up
