// Package rpc lets the processes of a fleet call each other: over TLS on a listener of its own, authenticated both
// ways by a key that is derived from the fleet's secret.
//
// Requests go over one connection to each process, in a protocol of its own (link.go) with the semantics of net/http.
// At a third of the CPU time of HTTP/2 it carries many small answers that many clients wait for: headers are not
// packed, frames of many requests share a write, and a waiting request holds no goroutine or buffer of the
// connection. Processes of a version that does not know it, and websockets, are spoken to in HTTP.
//
// A method takes and gives JSON. A call is tried once; who retries is the caller's to decide, as only it
// knows what is safe. ErrUnreachable says that the other process did not get the request.
package rpc
