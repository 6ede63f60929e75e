// Package fleet makes a process out of the domains. All processes of a fleet run the same binary and may read the same file; a process
// overrides little: its roles, its listeners, its machine id. What operates processes from outside stands above it, in ops.
//
// In reading order:
//
//   - Config (config.go) is the configuration, a section for each package; yaml.go prints it.
//   - Domains (domains.go) is the list of domains. Migrations, streams, roles (roles.go) and sections are collected from it, and wire.go
//     calls their constructors.
//   - Process (fleet.go) is a running process: Open connects the engines, migrates the schema, registers the machine and wires the
//     domains, and Run serves. AsMember (member.go) is a process without roles, for commands.
//   - DataDirectory (datadir.go) is what a process keeps on its disk: the names of all files there, its lock, and what is removed again
//     when a start fails. A serving process leaves a ProcessFile in it.
//   - agree.go refuses a process whose configuration or version does not fit the others, and probe.go one that reaches other engines.
//   - name.go keeps the name of the server and secret.go its secret, signing key and log epoch, all in table fleet.
//   - control.go answers commands on a socket, status.go asks all processes how they are, metrics.go measures the engines.
//
// Invariants: a server has one name and one secret for ever; a start that fails leaves no file and no name behind; over SQLite one
// process has the data directory for itself.
package fleet
