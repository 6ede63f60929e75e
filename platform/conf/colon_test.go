package conf_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lyceum/platform/conf"
)

// TestTextsWithColonsInBraces are texts, as YAML has them: the colon of a key has a space behind it.
func TestTextsWithColonsInBraces(t *testing.T) {
	for text, want := range map[string][]string{
		"main: {names: [127.0.0.1:16379]}":                       {"127.0.0.1:16379"},
		"main: {names: [redis://a:1, redis://u:p@b:2/0, c]}":     {"redis://a:1", "redis://u:p@b:2/0", "c"},
		"main: {names: [a.test:1,b.test:2, 'c:3'], debug: true}": {"a.test:1", "b.test:2", "c:3"},
		"main:\n  names: [127.0.0.1:16379]\n":                    {"127.0.0.1:16379"},
		"main: {names: [a: 1]}":                                  nil,
		"main: {names: [::1]}":                                   nil,
	} {
		file := filepath.Join(t.TempDir(), "lyceum.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &server{}
		err := conf.Load(conf.Sources{File: file, Environ: []string{}}, conf.Section{Name: "main", Into: s})
		switch {
		case want == nil && (err == nil || !strings.Contains(err.Error(), "lyceum.yaml")):
			t.Errorf("%s: expected an error, found %v %v", text, s.Names, err)
		case strings.Contains(text, "::1") && !strings.Contains(err.Error(), "quotes"):
			t.Errorf("%s: %v", text, err)
		case want != nil && (err != nil || !slices.Equal(s.Names, want)):
			t.Errorf("%s: found %q, %v", text, s.Names, err)
		}
	}
}

// TestFilesOfSecretsAreTold: that of a key, and the configuration itself when it has a secret, or a password in an address.
func TestFilesOfSecretsAreTold(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := write("key", "geheim")
	file := write("with file.yaml", "main: {key_file: "+key+"}")
	inline := write("inline.yaml", "main: {tls: {pass: geheim}}")
	address := write("address.yaml", "main: {names: ['redis://me:geheim@a:1']}")
	plain := write("plain.yaml", "# such as redis://me:geheim@a:1\nmain: {names: ['redis://a:1'], key: ''}")
	for name, c := range map[string]struct {
		sources conf.Sources
		want    []string
	}{
		"a file of a key": {conf.Sources{File: file}, []string{key}},
		"in clear":        {conf.Sources{File: inline}, []string{inline}},
		"an address":      {conf.Sources{File: address}, []string{address}},
		"nothing":         {conf.Sources{File: plain}, nil},
		"a variable":      {conf.Sources{Environ: []string{"LYCEUM_MAIN_KEY_FILE=" + key}}, []string{key}},
		"a flag":          {conf.Sources{Flags: map[string]string{"main.key_file": key}}, []string{key}},
	} {
		var found []string
		c.sources.SecretIn = func(path string) { found = append(found, path) }
		if c.sources.Environ == nil {
			c.sources.Environ = []string{}
		}
		if err := conf.Load(c.sources, conf.Section{Name: "main", Into: &server{}}); err != nil || !slices.Equal(found, c.want) {
			t.Errorf("%s: found %v, %v, expected %v", name, found, err, c.want)
		}
	}
}
