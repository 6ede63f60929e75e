// Package event holds room events as the federation exchanges them (PDUs):
// the room versions, parsing, hashing, signing, redaction and the form that
// clients see.
//
// An Event is immutable and safe for concurrent use. Its text is canonical
// JSON; its strings and Content point into that text, so a long-lived copy of
// one string should be cloned when it must not keep the whole event alive.
package event
