// Package role makes a process of the fleet out of its parts: its machine id, its roles, its background
// work, and calls to the process that owns a shard.
//
// A role is data (Role): its name, what it is for, the streams whose shards it shares and the key that
// balances its requests. Each is declared by its domain; the table of all is made in fleet/roles.go.
package role
