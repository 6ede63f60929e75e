// Package matrix holds the words every part of a Matrix server shares:
// errors, identifiers, canonical JSON and JSON signatures.
//
// Everything here is a pure function of its arguments: no input, no output,
// no clock and no configuration. The rules come from the appendices of the
// Matrix specification and from the list of standard errors in its
// client-server API.
package matrix
