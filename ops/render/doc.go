// Package render gives the renderers of ops/deploy what they need of a fleet: the table of routes, where processes listen, and the
// sizes of a plan.
package render
