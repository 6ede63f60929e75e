// Package busfault is one process's side of a bus that delays, repeats and loses messages, for tests. It keeps the
// contract of package bus: what is lost is lost with a connection, and the functions of OnReconnect run before
// messages flow again.
package busfault
