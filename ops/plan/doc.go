// Package plan says how large a fleet must be for a load: processes, CPU and memory of each role, PostgreSQL,
// Redis, storage and network. [Make] is pure arithmetic over [Capacities], which "lyceum bench calibrate"
// measures; the package holds a set measured on two cores. [Guide] gives what the scaling guides of Synapse,
// matrix-media-repo and Overleaf say for the same load.
//
// Every figure of a plan comes with the sentence that explains it, and what was not given is derived and
// said ([Plan.Derived]).
package plan
