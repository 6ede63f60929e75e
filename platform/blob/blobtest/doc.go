// Package blobtest holds what every engine of package blob must do, as one suite that each engine runs.
package blobtest
