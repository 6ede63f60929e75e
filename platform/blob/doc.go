// Package blob keeps immutable bytes under keys: in a directory or in any S3-compatible store.
//
// Nothing is read whole into memory. A blob appears whole or not at all.
package blob
