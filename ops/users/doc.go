// Package users is what commands such as lyceum user, token and reports do with the users of a server: make, list, lock and
// deactivate them, set passwords, give out tokens, and show what they reported.
//
// WithUsers gives a command its Users. They ask the process that runs over the same data directory, on whose control socket Serve
// answers, or work in a process of their own.
package users
