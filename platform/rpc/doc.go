// Package rpc lets the processes of a fleet call each other: over TLS on a listener of its own, authenticated both ways by a
// key that is derived from the fleet's secret.
//
// Requests go over one connection to each process, in a protocol of its own (link.go) with the semantics of net/http. For many
// small answers to many waiting clients it needs a third of the CPU time of HTTP/2: headers are not compressed, frames of many
// requests share a write, and a waiting request holds no goroutine or buffer of the connection. Processes of a version that
// does not know the protocol are called in HTTP, as are websockets.
//
// A method takes and returns JSON. A call is tried once, and only the caller knows whether it may be repeated. ErrUnreachable
// says that the other process did not get the request.
//
// The main types, in reading order: [Node] is this process's end, with methods and [Call]; links are the connections to other
// processes, one link to each; linkStream is one stream of a link, the body of a request or answer with its flow control.
package rpc
