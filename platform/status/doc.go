// Package status tells what the processes of a fleet do: each samples its own metrics and gives the sample to
// any other process that asks; [Gather] puts the samples of all beside the leases. Nothing is kept: rates
// come from two samples. The status page, lyceum status and lyceum doctor read it.
package status
