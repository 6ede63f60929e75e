// Package bus carries hints between the processes of a fleet.
//
// A message arrives at most once, in the order of its publisher, and may be lost: a bus is never the only copy of anything. A
// reader of a stream that sees a gap in the positions reads the rows from the database.
//
// The main types, in reading order: [Bus] is the contract; [Local] is the engine inside one process; [Redis] is the engine over
// Redis pub/sub, whose session is one set of connections to one server. [Limits] is the fleet-wide rate limiter, which is here
// because it lives in the same Redis. [Coalesced] joins callers that wait for the same call.
package bus
