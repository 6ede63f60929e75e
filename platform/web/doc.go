// Package web turns routes, which are data, into an HTTP server.
//
// A domain exports a list of [Route]. A route names its pattern, who may call it, the role and the
// key that balance it, its rate limit and its [Handler]. The server does the rest the same way for
// all: matching, CORS, request ids, panics, metrics, authentication, rate limits, body limits, JSON
// in and out, compression, and a graceful stop.
//
// The package knows no user, room or document. Tokens are given to an [Authenticator]; an error that
// knows its own answer (see [Answerer]) is written as it wants, any other is a 500 whose cause is
// only logged.
//
// Order of one request: clean path, match, Dispatch (the router may send it to another process),
// barrier, authentication, rate limit, place, handler, answer.
//
// Invariants: a token is never logged; a route marked [Fleet] is reached on the internal listener
// only; bytes that [Request.Raw] returns belong to the caller for ever, pooled memory never leaves
// the package.
//
// The main types, in reading order:
//
//   - [Route] declares an endpoint; [Server] serves routes, and [Request] is what a [Handler] gets.
//   - exchange (serve.go) is one request and its answer; [Reply], [Raw], [Stream], [Pieces], [Park] and [Takeover] are kinds of answers.
//   - [Park] is an answer that waits for news: the request is set aside (parkedRequest), its connection is taken from net/http (ownedConn),
//     and net/http gets it back with the first request of another kind (returningListener).
//   - A place (places.go) is the right to work at the same time as the caller's other requests; memoryBudget counts the memory
//     of bodies and answers by caller; [UnderWay] knows the requests that may change something.
//
// The path of a request: Server.serve → mux → endpoint.ServeHTTP → tryDispatch (another process may answer) → startTimeLimit → handle
// (authenticateAfterBarrier → takeRateLimit → takePlace → Handler → answer) → write.
//
// The path of a waiting request: answer → park → setAside (takeConnection gives an ownedConn) → parkedRequest.wait → wake →
// resumeAndServe → resume (Park.Resume → recheckWaiting → answer → write by ownedWriter) → ownedConn.serve, which reads the next request of
// the client and calls Server.serve, or gives the connection back to net/http (returningListener.giveBack → Accept).
//
// The end of a server: Run → Drain → connections.waitUntilHandled → http.Server.Shutdown → waitIdle.
package web
