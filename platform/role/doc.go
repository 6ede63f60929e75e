// Package role makes a process of the fleet out of its parts: its machine id, its roles, its background work, and calls to the
// process that owns a shard.
//
// The main types, in reading order:
//
//   - [Role] is data: its name, its purpose, the stream whose shards it shares and the key that balances its requests. Each
//     is declared by its domain; the table of all is made in fleet/roles.go.
//   - [Process] is this process: it runs the parts and chooses the process for a request (Route).
//   - [Owned] makes a function callable from every process that must run on the owner of a key's shard.
//   - [Process.Singleton] is background work of one process at a time; [Job] is the right to it, and writes under its lease.
package role
