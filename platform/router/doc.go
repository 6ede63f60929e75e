// Package router passes a request on to the process that serves it best, over one hop.
//
// Its Dispatch is web.Options.Dispatch. For each matched route it asks the [Directory] for the process that has the route's role and
// serves the request's key. If that is this process, the handler runs here. Otherwise the request goes to the other process's
// internal listener and its answer comes back, both streamed.
//
// A hop is an optimisation, never needed for a correct answer: a process serves any request, and finds owners by its own
// calls. So the router falls back to serving here whenever that is safe:
//
//   - A request that came from another process of the fleet is always served here, so that no two processes can send one
//     request in a circle.
//   - When the other process can not be reached, nothing was sent, and the request is served here.
//   - When the connection breaks before the answer begins, the request is served here if its method is idempotent (GET, HEAD,
//     PUT, DELETE; a PUT of Matrix carries its transaction id), or its route is, and its body can be read again. Otherwise
//     the client gets 502.
//   - When the request's key moves to another process before its answer has begun, such as away from a paused process, it is
//     taken back and tried at the new process, under the same two conditions.
//   - When this process stops while a GET waits elsewhere, it is served here, where it answers at once.
//
// A process that could not be reached is avoided until it answers a probe; no request of a client waits for that. An answer
// that does not begin within the route's Timeout is 504, a body above what the route takes 413, and one that could not be
// read 400: for these the other process does not count as down. Bodies are streamed; at most 64 KiB
// of one are kept, to send it again.
//
// Websockets take an HTTP/1.1 connection of their own, as package rpc has none in its own protocol. Unused connections to
// others are closed before those others would close them.
//
// The other process gets the client's address and scheme as this one found them, in X-Forwarded-For and X-Forwarded-Proto: it
// believes them because its listener knows this process.
//
// The main types, in reading order: [Router] dispatches; hop is one attempt at another process, with its body; watch gives up
// hops that should not be waited for; health knows which processes are down.
package router
