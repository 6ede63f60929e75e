package conf

import (
	"maps"
	"slices"
	"strings"
)

// Variables turns flags of Load into variables of the environment, to pass them to another process without secrets on its command line.
// Flags that no section knows are left out.
func Variables(flags map[string]string, sections ...Section) []string {
	names := map[string]string{}
	for _, s := range sections {
		for _, leaf := range s.leaves() {
			names[leaf.key()] = leaf.env()
			if leaf.field.typ == secretType {
				names[leaf.key()+"_file"] = leaf.env() + "_FILE"
			}
		}
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		if name, known := names[key]; known {
			out = append(out, name+"="+flags[key])
		}
	}
	return out
}

// Over returns environ overridden by more. A secret can be set by two variables, KEY and KEY_FILE: when more has one of them, both of
// environ are dropped.
func Over(environ, more []string, sections ...Section) []string {
	other := map[string]string{}
	for _, s := range sections {
		for _, leaf := range s.leaves() {
			if leaf.field.typ == secretType {
				other[leaf.env()], other[leaf.env()+"_FILE"] = leaf.env()+"_FILE", leaf.env()
			}
		}
	}
	gone := map[string]bool{}
	for _, pair := range more {
		name, _, _ := strings.Cut(pair, "=")
		gone[name] = true
		if other[name] != "" {
			gone[other[name]] = true
		}
	}
	out := make([]string, 0, len(environ)+len(more))
	for _, pair := range environ {
		if name, _, _ := strings.Cut(pair, "="); !gone[name] {
			out = append(out, pair)
		}
	}
	return append(out, more...)
}
