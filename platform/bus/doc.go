// Package bus carries hints between the processes of a fleet.
//
// A message arrives at most once, in the order of its publisher, and may be lost: a bus is never the only
// copy of anything. Who reads a stream sees a gap in its offsets and reads the rows from the database.
// Engines: Local, inside one process, and Redis, over pub/sub. Limits, the fleet-wide rate limiter, is here
// because it lives in the same Redis.
package bus
