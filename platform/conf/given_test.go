package conf

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

type givenConfig struct {
	Listen  string            `yaml:"listen" default:":1"`
	Size    Size              `yaml:"size" default:"1MiB"`
	Key     Secret            `yaml:"key"`
	Headers map[string]Secret `yaml:"headers"`
}

// TestOverriddenSecretFilesAreNotRead: a service of systemd has its secrets as credentials and can not open root's files, which the same
// configuration names for the command line.
func TestOverriddenSecretFilesAreNotRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lyceum.yaml")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("lyceum.yaml", "part:\n  key_file: "+filepath.Join(dir, "absent")+"\n")
	credential := write("credential", "from systemd\n")
	for _, sources := range []Sources{
		{File: file, Environ: []string{"LYCEUM_PART_KEY_FILE=" + credential}},
		{File: file, Environ: []string{"LYCEUM_PART_KEY=from systemd"}},
		{File: file, Environ: []string{}, Flags: map[string]string{"part.key_file": credential}},
	} {
		var c givenConfig
		if err := Load(sources, Section{Name: "part", Into: &c}); err != nil || c.Key != "from systemd" {
			t.Errorf("%q, %v", c.Key.Reveal(), err)
		}
	}
	if err := Load(Sources{File: file, Environ: []string{}}, Section{Name: "part", Into: &givenConfig{}}); err == nil {
		t.Error("a file that is not there was taken")
	}
}

func TestGivenKeysAreTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lyceum.yaml")
	if err := os.WriteFile(file, []byte("part:\n  size: 2MiB\n  headers: {a: b}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	given, err := LoadGiven(Sources{File: file, Environ: []string{}, Flags: map[string]string{"part.key": "geheim"}},
		Section{Name: "part", Into: &givenConfig{}})
	if err != nil || len(given) != 3 {
		t.Fatalf("%v, %v", given, err)
	}
	size, key, headers := given[0], given[1], given[2]
	if size.Key != "part.size" || size.Value != "2MiB" || size.Where != file+":2" || size.Secret || size.Holds {
		t.Errorf("%+v", size)
	}
	if key.Value != "geheim" || !key.Secret || key.Env != "LYCEUM_PART_KEY" {
		t.Errorf("%+v", key)
	}
	if !headers.Holds || fmt.Sprint(headers.Value) == "map[a:b]" {
		t.Errorf("%+v", headers)
	}
}
