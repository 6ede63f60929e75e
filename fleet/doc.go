// Package fleet makes a process out of the domains: the table of roles (roles.go), the configuration of
// every package (config.go), and what each domain is given (wire.go).
//
// All processes of a fleet run the same binary and may read the same file; a process overrides little:
// its roles, its listeners, its machine id.
package fleet
