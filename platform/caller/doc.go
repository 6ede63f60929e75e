// Package caller says on whose behalf work is done, so that what many need is shared between them: web knows who asks, and db
// gives out connections.
package caller
