// Package jsontext reads the text of JSON (RFC 8259) without decoding it. JSON from clients is often handed on as it is, and a
// parser of another client may refuse a whole answer for one value that encoding/json lets pass, so this package refuses more:
// invalid UTF-8, halves of surrogate pairs, deep nesting and, when asked, numbers that no float64 can hold.
//
// [Validate] checks one value against [Limits] and returns an [*Error]. [ScanString], [ScanNumber], [ScanLiteral] and [SkipSpace]
// are its parts, for those who walk through a text themselves (matrix.CanonicalJSON).
package jsontext
