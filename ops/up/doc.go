// Package up runs a whole fleet on one machine, for lyceum up: processes by groups of roles, the PostgreSQL and Redis that nobody gave
// it, and the one public socket of all routers. What ends is started again.
//
// Commands such as lyceum ps, scale and restart reach a running one over a socket in its data directory (supervise.go). Rollout upgrades
// its fleet process by process and goes back on trouble.
package up
