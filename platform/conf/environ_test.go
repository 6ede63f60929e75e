package conf_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"lyceum/platform/conf"
)

type passed struct {
	Name   string            `yaml:"name" default:"none"`
	Word   conf.Secret       `yaml:"word"`
	List   []string          `yaml:"list"`
	Map    map[string]string `yaml:"map"`
	Within struct {
		Wait conf.Duration `yaml:"wait" default:"1s"`
	} `yaml:"within"`
}

// What a process has of its environment and flags, another one has of its environment alone.
func TestFlagsGoOnAsVariables(t *testing.T) {
	file := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(file, []byte("of the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		environ []string
		flags   map[string]string
	}{
		"nothing":                {nil, nil},
		"over nothing":           {nil, map[string]string{"x.name": "a=b,c", "x.list": "a,b", "x.map": "{a: 'b,c'}", "x.within.wait": "7d"}},
		"over variables":         {[]string{"LYCEUM_X_NAME=e", "LYCEUM_X_LIST=e", "OTHER=e"}, map[string]string{"x.name": "f", "x.list": ""}},
		"emptied":                {[]string{"LYCEUM_X_NAME=e"}, map[string]string{"x.name": ""}},
		"a secret over its file": {[]string{"LYCEUM_X_WORD_FILE=" + file}, map[string]string{"x.word": "direct"}},
		"the file of a secret":   {[]string{"LYCEUM_X_WORD=direct"}, map[string]string{"x.word_file": file}},
	} {
		load := func(s conf.Sources) (p passed) {
			if s.Environ == nil {
				s.Environ = []string{}
			}
			if err := conf.Load(s, conf.Section{Name: "x", Into: &p}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return p
		}
		section := conf.Section{Name: "x", Into: &passed{}}
		want := load(conf.Sources{Environ: c.environ, Flags: c.flags})
		got := load(conf.Sources{Environ: conf.Over(c.environ, conf.Variables(c.flags, section), section)})
		if !reflect.DeepEqual(got, want) || got.Word.Reveal() != want.Word.Reveal() {
			t.Errorf("%s: found %+v, expected %+v", name, got, want)
		}
	}
}
