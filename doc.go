// Package lyceum holds the tests of the rules that the whole tree keeps (arch_test.go).
package lyceum
