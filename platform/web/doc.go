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
// barrier, authentication, rate limit, handler, answer.
//
// Invariants: a token is never logged; a route marked [Fleet] is reached on the internal listener
// only; bytes that [Request.Raw] returns belong to the caller for ever, pooled memory never leaves
// the package.
package web
