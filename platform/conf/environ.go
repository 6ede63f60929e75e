package conf

import (
	"maps"
	"slices"
	"strings"
)

// Variables gives flags, which Load takes, as variables of the environment: so another process gets them, and no command line shows
// secrets. Flags that no section knows are left out.
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

// Over is environ with more over it. A secret that more gives, or the file of one, takes the place of both.
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
