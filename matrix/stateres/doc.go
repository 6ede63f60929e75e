// Package stateres resolves several states of one room into one: state
// resolution version 2 for room versions 2 to 11, and version 2.1 (MSC4297)
// for room version 12.
//
// It is a pure function of the states and of the events it asks for: the
// order of states and maps never changes the result. No step recurses, so a
// long chain of events can not exhaust the stack.
//
// It is for federation: in a room of this server alone no two states meet, so
// no package imports it yet.
package stateres
