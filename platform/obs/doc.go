// Package obs lets people see what a process does: logs, metrics, traces, health and profiles.
//
// Nothing is global: New makes one Obs per process and hands out its logger, registry and tracer.
package obs
