// Package backoff spaces the attempts of something that fails: [Backoff] is a pause that doubles up to a maximum, and
// [Retry] repeats a call with such pauses.
package backoff
