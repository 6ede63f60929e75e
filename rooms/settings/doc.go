// Package settings copies what a user has set for a room to the room that replaces it: the account data m.tag, the entries of m.direct,
// and the push rules about the room. Package rooms calls it when a room is made that replaces another, and when a user joins one.
//
// Everything is stored by package accounts. Copying again changes nothing.
package settings
