// Package disk writes small files that must survive the loss of power: secrets, keys, configurations.
package disk
