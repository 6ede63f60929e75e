// Package backup copies a server into a backup and makes a server of one: lyceum backup and lyceum restore. Package archive below it
// writes, reads and checks the files.
//
// Make takes all tables but those that a restore skips, in one snapshot, and the blobs that they name. Restore makes of the rows of one
// fleet those of another: leases have no owner and a higher epoch, and the history has a new name, so that clients with a position
// from after the backup begin afresh.
package backup
