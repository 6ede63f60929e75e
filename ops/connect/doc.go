// Package connect is how a command reaches a server from outside: through the control socket of the process that runs over the
// same data directory, as a member of the fleet without roles, or, where no process runs, as the only one.
//
// Load reads the configuration of a command, also from the data directory of a lyceum up. WithEngines runs the PostgreSQL of a
// stopped lyceum up for as long as a command takes. Running finds the process that answers commands, and WithStatus asks the whole
// fleet how it is.
package connect
