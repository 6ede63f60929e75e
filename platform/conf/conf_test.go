package conf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"lyceum/platform/conf"
)

type upstream struct {
	URL    string        `yaml:"url" help:"where"`
	Weight int           `yaml:"weight" default:"1" min:"1"`
	Wait   conf.Duration `yaml:"wait" default:"3s"`
}

type server struct {
	Listen   string            `yaml:"listen" default:"127.0.0.1:8008" help:"address | port"`
	Workers  int               `yaml:"workers" default:"4" min:"1" max:"64"`
	Ratio    float64           `yaml:"ratio" default:"0.5" max:"1"`
	Debug    bool              `yaml:"debug"`
	Timeout  conf.Duration     `yaml:"timeout" default:"30s" min:"1s" max:"1h" help:"how long"`
	MaxBody  conf.Size         `yaml:"max_body" default:"50MiB" max:"1GiB"`
	Key      conf.Secret       `yaml:"key" help:"signs"`
	Format   string            `yaml:"format" default:"text" oneof:"text|json"`
	Names    []string          `yaml:"names" default:"a,b"`
	Waits    []conf.Duration   `yaml:"waits"`
	Labels   map[string]string `yaml:"labels"`
	Limits   map[string]int    `yaml:"limits" default:"x=1,y=2"`
	Upstream []upstream        `yaml:"upstreams"`
	TLS      struct {
		Cert string      `yaml:"cert" help:"file"`
		Pass conf.Secret `yaml:"pass"`
	} `yaml:"tls"`
	Level  *slog.Level `yaml:"level"`
	Hidden int         `yaml:"-"`
}

func (s *server) Validate() error {
	var errs []error
	if strings.HasSuffix(s.Listen, ":0") {
		errs = append(errs, fmt.Errorf("listen: expected a fixed port, found %q: choose one", s.Listen))
	}
	if s.Debug && s.Format == "json" {
		errs = append(errs, errors.New("debug and json do not go together"))
	}
	return errors.Join(errs...)
}

type other struct {
	Name string `yaml:"name"`
}

func load(t testing.TB, yaml string, environ []string, flags map[string]string) (*server, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lyceum.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if environ == nil {
		environ = []string{}
	}
	var s server
	err := conf.Load(conf.Sources{File: file, Environ: environ, Flags: flags},
		conf.Section{Name: "server", Into: &s}, conf.Section{Name: "other", Into: &other{}})
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), file, "F"))
	}
	return &s, err
}

func TestDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "server:\n  # nothing\n", "---\n", "server: {}\n"} {
		s, err := load(t, text, nil, nil)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		want := server{
			Listen: "127.0.0.1:8008", Workers: 4, Ratio: 0.5, Timeout: conf.Duration(30 * time.Second), MaxBody: 50 << 20,
			Format: "text", Names: []string{"a", "b"}, Limits: map[string]int{"x": 1, "y": 2},
		}
		if diff := cmp.Diff(want, *s); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestEverySource(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := load(t, `
server:
  listen: "[::1]:80"
  workers: 8
  ratio: 1
  debug: true
  timeout: 1m30s
  max_body: 1024
  key_file: `+secret+`
  names:
    - x
    - "7"
  waits: [1s, 2m]
  labels: {one: "1", two: zwei}
  upstreams:
    - url: http://a
    - {url: http://b, weight: 3, wait: 0}
  tls:
    cert: |
      line
    pass: "123"
  level: warn
other: {name: n}
`, []string{
		"LYCEUM_SERVER_WORKERS=9", "LYCEUM_SERVER_NAMES=p, q", "LYCEUM_SERVER_LIMITS=k=5", "LYCEUM_SERVER_TLS_CERT=c",
		"LYCEUM_CONFIG=/else", "LYCEUM_MEDIA_SERVICE_HOST=10.0.0.1", "LYCEUM_SERVER_PORT_80_TCP=tcp://10.0.0.1:80", "PATH=/bin",
	}, map[string]string{"server.workers": "10", "server.max_body": "2KiB", "server.waits": "[5s]"})
	if err != nil {
		t.Fatal(err)
	}
	level := slog.LevelWarn
	want := server{
		Listen: "[::1]:80", Workers: 10, Ratio: 1, Debug: true, Timeout: conf.Duration(90 * time.Second), MaxBody: 2048,
		Key: "from file", Format: "text", Names: []string{"p", "q"}, Waits: []conf.Duration{conf.Duration(5 * time.Second)},
		Labels: map[string]string{"one": "1", "two": "zwei"}, Limits: map[string]int{"k": 5},
		Upstream: []upstream{{"http://a", 1, conf.Duration(3 * time.Second)}, {"http://b", 3, 0}}, Level: &level,
	}
	want.TLS.Cert, want.TLS.Pass = "c", "123"
	if diff := cmp.Diff(want, *s); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		yaml  string
		env   []string
		flags map[string]string
		want  []string
	}{
		{yaml: "server:\n  timeut: 3s\n", want: []string{"F:2: server.timeut", `did you mean "timeout"?`}},
		{yaml: "sever:\n  listen: x\n", want: []string{"F:1: sever", `did you mean "server"?`}},
		{yaml: "server:\n  qqqqqqqqqq: 1\n", want: []string{"F:2", "unknown key: expected one of listen"}},
		{yaml: "server:\n  workers: four\n", want: []string{"F:2: server.workers", "expected an integer", `"four"`}},
		{yaml: "server:\n  workers: 1.5\n", want: []string{"F:2", "integer", "1.5"}},
		{yaml: "server:\n  workers: 99999999999999999999\n", want: []string{"F:2", "integer"}},
		{yaml: "server:\n\n  workers: 65\n", want: []string{"F:3: server.workers", "at most 64", "found 65"}},
		{yaml: "server:\n  timeout: 10ms\n", want: []string{"F:2: server.timeout", "at least 1s", "found 10ms"}},
		{yaml: "server:\n  max_body: 2GiB\n", want: []string{"at most 1GiB", "found 2GiB"}},
		{yaml: "server:\n  timeout: 30\n", want: []string{"F:2", "duration", "add the unit"}},
		{yaml: "server:\n  timeout: soon\n", want: []string{"F:2", "expected a duration", `"soon"`}},
		{yaml: "server:\n  max_body: 5 bananas\n", want: []string{"F:2", "expected a size"}},
		{yaml: "server:\n  debug: yes\n", want: []string{"F:2", "true or false", `"yes"`}},
		{yaml: "server:\n  listen: 8008\n", want: []string{"F:2", "put it in quotes"}},
		{yaml: "server:\n  listen:\n", want: []string{"F:2", "there is no value"}},
		{yaml: "server:\n  listen: [a]\n", want: []string{"F:2", "found a list"}},
		{yaml: "server:\n  names: a\n", want: []string{"F:2", "list of text"}},
		{yaml: "server:\n  names: {a: b}\n", want: []string{"F:2", "found keys"}},
		{yaml: "server:\n  labels: [a]\n", want: []string{"F:2", "expected keys"}},
		{yaml: "server:\n  tls: x\n", want: []string{"F:2: server.tls", "expected keys"}},
		{yaml: "server: 5\n", want: []string{"F:1: server", "expected keys"}},
		{yaml: "[1]\n", want: []string{"F:1", "expected keys"}},
		{yaml: "server:\n  format: xml\n", want: []string{"F:2: server.format", "text, json", `"xml"`}},
		{yaml: "server:\n  upstreams:\n    - ur: x\n", want: []string{"F:3: server.upstreams[0].ur", `"url"`}},
		{yaml: "server:\n  upstreams:\n    - url: x\n      weight: 0\n", want: []string{"F:4: server.upstreams[0].weight", "at least 1"}},
		{yaml: "server:\n  listen: a\n  listen: b\n", want: []string{"F:3", "listen"}},
		{yaml: "server:\n  listen: &a x\n", want: []string{"F:2", "write the value out"}},
		{yaml: "server: {}\n---\nother: {}\n", want: []string{"several"}},
		{yaml: "server:\n\tlisten: a\n", want: []string{"F"}},
		{yaml: "server:\n  key: [sesame\n", want: []string{"F: line "}},
		{yaml: "server:\n  key: sesame\n  key_file: /nowhere\n", want: []string{"F:3", "also set at F:2"}},
		{yaml: "server:\n  key_file: /nowhere/at/all\n", want: []string{"F:2", "/nowhere/at/all"}},
		{yaml: "server:\n  listen: x:0\n", want: []string{"F:2: server.listen: expected a fixed port"}},
		{yaml: "server:\n  debug: true\n  format: json\n", want: []string{"F:2: server: debug and json"}},
		{env: []string{"LYCEUM_SERVER_WORKER=1"}, want: []string{"LYCEUM_SERVER_WORKER", "did you mean LYCEUM_SERVER_WORKERS?"}},
		{env: []string{"LYCEUM_SERVER="}, want: []string{"environment LYCEUM_SERVER: unknown variable", "did you mean LYCEUM_SERVER_"}},
		{env: []string{"LYCEUM_SEVER_WORKERS=1"}, want: []string{"did you mean LYCEUM_SERVER_WORKERS?"}},
		{env: []string{"LYCEUM_SERVER_WORKERS=x"}, want: []string{"environment LYCEUM_SERVER_WORKERS: server.workers", "integer"}},
		{env: []string{"LYCEUM_SERVER_WORKERS=0"}, want: []string{"environment LYCEUM_SERVER_WORKERS", "at least 1"}},
		{env: []string{"LYCEUM_SERVER_LABELS=x"}, want: []string{"key=value"}},
		{env: []string{"LYCEUM_SERVER_UPSTREAMS=[{url: 5}]"}, want: []string{"server.upstreams[0].url", "quotes"}},
		{env: []string{"LYCEUM_SERVER_KEY=a", "LYCEUM_SERVER_KEY_FILE=b"}, want: []string{"also set directly"}},
		{flags: map[string]string{"server.listn": "x"}, want: []string{"flag server.listn", `"server.listen"`}},
		{flags: map[string]string{"server.limits.a.b": "3"}, want: []string{"flag server.limits.a.b", "'server.limits={a: {b: …}}'"}},
	} {
		_, err := load(t, c.yaml, c.env, c.flags)
		if err == nil {
			t.Errorf("%q %q %q: no error", c.yaml, c.env, c.flags)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q %q %q:\n got: %v\nwant: %s", c.yaml, c.env, c.flags, err, part)
			}
		}
	}
}

func TestAllErrorsAtOnceWithoutSecrets(t *testing.T) {
	_, err := load(t, "server:\n  key: 12345\n  tls: {pass: [sesame]}\n  workers: x\n", []string{"LYCEUM_SERVER_DEBUG=maybe"}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 4 {
		t.Errorf("%d errors, expected 4:\n%v", n, err)
	}
	if strings.Contains(err.Error(), "12345") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a secret is in the error:\n%v", err)
	}
}

func TestValuesSetBeforeAreDefaults(t *testing.T) {
	s := server{Listen: "mine", Names: []string{"mine"}}
	if err := conf.Load(conf.Sources{Environ: []string{}}, conf.Section{Name: "server", Into: &s}); err != nil {
		t.Fatal(err)
	}
	if s.Listen != "mine" || s.Names[0] != "mine" || s.Workers != 4 {
		t.Errorf("%+v", s)
	}
}

func TestProgrammersErrors(t *testing.T) {
	type loop struct {
		Next []struct{ C chan int } `yaml:"next"`
	}
	for _, sections := range [][]conf.Section{
		{{Name: "", Into: &other{}}},
		{{Name: "a", Into: other{}}},
		{{Name: "a", Into: &other{}}, {Name: "a", Into: &other{}}},
		{{Name: "a", Into: &loop{}}},
		{{Name: "a", Into: &struct {
			N int `yaml:"n" default:"x"`
		}{}}},
		{{Name: "a", Into: &struct {
			A int `yaml:"n"`
			B int `yaml:"n"`
		}{}}},
	} {
		if err := conf.Load(conf.Sources{Environ: []string{}}, sections...); err == nil {
			t.Errorf("%+v was accepted", sections)
		}
	}
}

func TestReference(t *testing.T) {
	text := string(conf.Reference([]conf.Section{{Name: "server", Into: &server{}, Help: "The server."}}))
	for _, line := range []string{
		"## server\n\nThe server.\n",
		"| `server.listen` | `LYCEUM_SERVER_LISTEN` | text | `127.0.0.1:8008` | address \\| port |",
		"| `server.workers` | `LYCEUM_SERVER_WORKERS` | integer, 1 to 64 | `4` |  |",
		"| `server.key` | `LYCEUM_SERVER_KEY` | secret (or a file: `key_file`) |  | signs |",
		"| `server.format` | `LYCEUM_SERVER_FORMAT` | text, json | `text` |  |",
		"| `server.tls.cert` | `LYCEUM_SERVER_TLS_CERT` | text |  | file |",
		"| `server.upstreams` | `LYCEUM_SERVER_UPSTREAMS` | list of keys |  |  |",
		"| `server.upstreams[].weight` |  | integer, at least 1 | `1` |  |",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("missing %s in:\n%s", line, text)
		}
	}
}

func TestEffectiveIsReadAgain(t *testing.T) {
	first, err := load(t, "server: {key: sesame, tls: {pass: sesame}, names: [], level: error, upstreams: [{url: u}], labels: {a: 'true'}, "+
		"timeout: 90s}\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := conf.Effective([]conf.Section{{Name: "server", Into: first}})
	if strings.Contains(string(text), "sesame") || !strings.Contains(string(text), "key: (secret)") {
		t.Errorf("secrets:\n%s", text)
	}
	again, err := load(t, string(text), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	again.Key, again.TLS.Pass = first.Key, first.TLS.Pass
	if diff := cmp.Diff(first, again, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestSecretHidesItself(t *testing.T) {
	s := conf.Secret("sesame")
	holder := struct{ Key conf.Secret }{s}
	encoded, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", s, "holder", holder)
	for _, text := range []string{
		s.String(), fmt.Sprint(s), fmt.Sprintf("%s %q %v %+v %#v %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", holder, holder, holder), string(encoded), log.String(),
	} {
		if strings.Contains(text, "sesame") || strings.Contains(text, "68757368") {
			t.Errorf("it shows in %s", text)
		}
	}
	if s.Reveal() != "sesame" || conf.Secret("").String() != "" {
		t.Error("Reveal or the empty secret is wrong")
	}
}

func TestDurationAndSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := conf.Duration(rapid.Int64Range(-1<<62, 1<<62).Draw(t, "d"))
		if rapid.Bool().Draw(t, "round") {
			d -= d % conf.Duration(time.Hour)
		}
		var d2 conf.Duration
		if err := d2.UnmarshalText([]byte(d.String())); err != nil || d2 != d {
			t.Fatalf("%d is written %s and read %d, %v", d, d, d2, err)
		}
		s := conf.Size(rapid.Int64Min(0).Draw(t, "s"))
		if rapid.Bool().Draw(t, "mib") {
			s -= s % (1 << 20)
		}
		var s2 conf.Size
		if err := s2.UnmarshalText([]byte(s.String())); err != nil || s2 != s {
			t.Fatalf("%d is written %s and read %d, %v", s, s, s2, err)
		}
	})
	for text, want := range map[string]time.Duration{
		"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "1h30m": 90 * time.Minute,
		"0d": 0,
	} {
		var d conf.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.D() != want {
			t.Errorf("%s is read as %s, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "d", "1", "1d1", "999999999d", "106751d24h", "x", "1 d"} {
		var d conf.Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("duration %q is read as %s", text, d)
		}
	}
	for text, want := range map[string]int64{"1.5KiB": 1536, "2 MB": 2e6, "1kB": 1000, "7": 7, "7B": 7} {
		var s conf.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s.Bytes() != want {
			t.Errorf("%s is read as %s, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "-1", "B", "1XB", "NaN", "1e30", "9999999TiB", "Inf"} {
		var s conf.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("size %q is read as %s", text, s)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("server:\n  listen: x\n", "a,b")
	f.Add("server: {upstreams: [{url: a, weight: 1}], labels: {a: b}}\n", "[x, y]")
	f.Add("server: &a {tls: *a}\n", "{")
	f.Add("- !!binary x\n? {a}\n: b\n<<: *x\n", "x=y")
	f.Add("server:\n  tls:\n    cert: |-\n      x\n  ratio: .inf\n  level: ~\n", "=")
	f.Fuzz(func(t *testing.T, yaml, text string) {
		s, err := load(t, yaml, []string{"LYCEUM_SERVER_NAMES=" + text, "LYCEUM_SERVER_LABELS=" + text, "LYCEUM_SERVER_UPSTREAMS=" + text}, nil)
		if err != nil {
			return
		}
		if s.Workers < 1 || s.Workers > 64 || s.Timeout.D() > time.Hour {
			t.Errorf("out of bounds: %+v", s)
		}
		printed := conf.Effective([]conf.Section{{Name: "server", Into: s}})
		if _, err := load(t, string(printed), nil, nil); err != nil {
			t.Errorf("what Effective prints is refused: %v\n%s", err, printed)
		}
	})
}
