// Package roomstest gives the tests of packages above rooms a process with accounts and rooms, and people who use it.
package roomstest
