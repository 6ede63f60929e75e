// Package owned keeps what the owner of a shard knows of its keys (rooms, users, documents), ahead of the database by what
// is queued, with one policy for every failure.
//
// [Owned.Do] loads what is known of a key when it is not in memory, lets a function check a change against it, queues the
// rows of the change and applies it, and returns when the rows are durable. Its rules:
//
//  1. Nothing is applied before its rows have a place in the queue, under the ownership under which the key was loaded. A
//     full queue, a lost shard or a row too large has changed nothing.
//  2. Who writes nothing waits for the newest row of the key, since the answer rests on it; where the answer must not
//     come from a former owner (Spec.Strict), the ownership is confirmed besides.
//  3. A row that is not written ends the memory of its key, and what was built upon it is not written either. There is no
//     undoing: the next call loads the key anew. Other keys go on.
//  4. Memory is bounded in bytes: keys that were used least lately go, but for those with rows that are not decided and
//     those that are pinned.
//
// A key's lock is held over no statement and no signature once the key is loaded: what the function misses it asks for with
// [Change.Need], and what the rows need besides their place is made by stream.Entry.Seal.
package owned
