// Package doctor examines a fleet that runs: it compares two samples of its processes and engines with the
// targets of the scaling guides and with what is safe, and says what to change. [Examine] is pure; the first
// finding is the bottleneck, or what is broken.
package doctor
