// Package bustest holds what every engine of package bus must do, as one suite that each engine runs.
package bustest
