// Package blob keeps immutable bytes under keys: in a directory or in any S3-compatible store.
//
// Nothing is read whole into memory. A blob appears whole or not at all.
//
// The main types, in reading order: [Store] is the contract, [Directory] and [S3] are its engines, and [Open] chooses one by the
// [Config]. [PutContent] stores a blob under the SHA-256 of its content. [Measured] adds metrics.
package blob
