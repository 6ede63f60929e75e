// Package auth holds the authorisation rules of all room versions: whether a
// room state permits an event, which state events an event must name as its
// auth_events, and what the power levels of a room say.
//
// Signatures are not checked here: event.VerifySignatures covers the rules
// about them, the one for restricted joins included.
package auth
