// Package rpc lets the processes of a fleet call each other: HTTP/2 over TLS on a listener of its own,
// authenticated both ways by a key that is derived from the fleet's secret.
//
// A method takes and gives JSON. A call is tried once; who retries is the caller's to decide, as only it
// knows what is safe. ErrUnreachable says that the other process did not get the request.
package rpc
