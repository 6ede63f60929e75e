// Package conf reads the configuration: one YAML file, overridden by the environment, overridden by flags.
//
// Each package owns one Section: a struct with tags. What is unknown, of the wrong type or out of range is
// refused with its file, line and remedy. The reference in the manual is printed from the same structs.
package conf
