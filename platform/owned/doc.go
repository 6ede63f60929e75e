// Package owned keeps the state of keys (rooms, users, documents) in the memory of the process that owns their shard. The state
// is ahead of the database by the rows that are queued. All users of the package share one policy for failures.
//
// [Owned.Do] loads the state of a key when it is not in memory, lets a function check a change against it, queues the rows of
// the change and applies it, and returns when the rows are durable. Its rules:
//
//  1. Nothing is applied before its rows have a place in the queue, under the ownership under which the key was loaded. A
//     full queue, a lost shard or a row that is too large has changed nothing.
//  2. A call that writes nothing waits for the newest row of the key, since its answer rests on it. When the answer must not
//     come from a former owner (Spec.Strict), the ownership is confirmed as well.
//  3. A row that is not written ends the state of its key, and the rows built upon it are not written either. Nothing is
//     undone: the next call loads the key anew. Other keys go on.
//  4. Memory is bounded in bytes: the keys used least recently are evicted, except for those with queued rows and those that
//     are pinned.
//
// A key's lock is held over no statement and no signature once the key is loaded: what the function lacks it asks for with
// [Change.Need], and what the rows need besides their place is made by stream.Entry.Seal.
//
// The main types, in reading order: [Spec] says how keys are kept, [Owned] is the memory of one stream's keys, and [Change] is
// what one call does to a key.
package owned
