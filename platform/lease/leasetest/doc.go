// Package leasetest is the conformance suite of the lease seam: Run proves the promises of package lease on
// one engine.
package leasetest
