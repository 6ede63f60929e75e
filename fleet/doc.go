// Package fleet makes a process out of the domains: their list (domains.go), what each is given (wire.go), and what is
// collected from their declarations, such as the table of roles (roles.go) and the configuration (config.go).
//
// All processes of a fleet run the same binary and may read the same file; a process overrides little:
// its roles, its listeners, its machine id.
package fleet
