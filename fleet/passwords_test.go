package fleet

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/obs"
	"lyceum/platform/status"
)

const secretWord = "hu5h-hu5h"

// fill puts an address with a password into every text of a configuration.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("yaml") != "-" {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		if v.CanSet() && v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem().PkgPath() != "" {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		item := reflect.New(v.Type().Elem()).Elem()
		fill(item)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("name").Convert(v.Type().Key()), item)
	case reflect.String:
		v.SetString("redis://me:" + secretWord + "@host:1")
	}
}

// TestNoPasswordOfAnAddressIsPrinted: whatever key holds an address with a password, neither the printed
// configuration nor a backup without secrets has it.
func TestNoPasswordOfAnAddressIsPrinted(t *testing.T) {
	c := &Config{}
	for _, s := range c.Sections() {
		fill(reflect.ValueOf(s.Into).Elem())
	}
	if text := conf.Effective(c.Sections()); bytes.Contains(text, []byte(secretWord)) {
		t.Errorf("lyceum config prints a password:\n%s", linesWith(text, secretWord))
	}
	text, err := c.YAML(false)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(secretWord)) || bytes.Contains(text, []byte("(secret)")) {
		t.Errorf("a backup without secrets holds a password:\n%s%s", linesWith(text, secretWord), linesWith(text, "(secret)"))
	}
	if !bytes.Contains(text, []byte("redis://host:1")) {
		t.Errorf("the address was lost:\n%s", text)
	}
	if text, err = c.YAML(true); err != nil || !bytes.Contains(text, []byte("- redis://me:"+secretWord+"@host:1")) {
		t.Errorf("a backup with secrets has lost them: %v\n%s", err, text)
	}
}

func linesWith(text []byte, word string) string {
	var out []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// TestErrorsTellNoPassword: a configuration that is refused is told without its passwords.
func TestErrorsTellNoPassword(t *testing.T) {
	for _, text := range []string{
		"redis:\n  addresses: 'redis://:" + secretWord + "@host:1'\n",
		"redis:\n  addresses: ['redis://:" + secretWord + "/x@host:1']\n",
		"redis:\n  addresses: ['redis://:" + secretWord + "@host:1/0']\n",
		"redis:\n  timeout: 'redis://:" + secretWord + "@host:1'\n",
		"accounts:\n  registration: 'redis://:" + secretWord + "@host:1'\n",
		"blob:\n  s3:\n    endpoint: 'http://me:" + secretWord + "@host:1'\n    bucket: b\n",
		"blob:\n  s3:\n    endpoint: 'http://me:" + secretWord + "@host:1/path'\n    bucket: b\n",
		"obs:\n  otlp_endpoint: 'collector://me:" + secretWord + "@host:1'\n",
		"http:\n  trusted_proxies: ['me:" + secretWord + "@host:1']\n",
		"server:\n  name: 'me:" + secretWord + "@host:1'\n",
	} {
		file := filepath.Join(t.TempDir(), "lyceum.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(conf.Sources{File: file, Environ: []string{}})
		if err == nil {
			t.Errorf("%s was taken", text)
		} else if strings.Contains(err.Error(), secretWord) {
			t.Errorf("%v", err)
		}
	}
	for key, value := range map[string]string{
		"LYCEUM_REDIS_TIMEOUT":    "redis://:" + secretWord + "@host:1",
		"LYCEUM_BLOB_S3_ENDPOINT": "http://me:" + secretWord + "@host:1",
	} {
		if _, err := Load(conf.Sources{Environ: []string{key + "=" + value}}); err == nil || strings.Contains(err.Error(), secretWord) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestStatusAndLogTellNoPassword: what operators see has the host alone.
func TestStatusAndLogTellNoPassword(t *testing.T) {
	b, err := bus.NewRedis(t.Context(), bus.Config{Addresses: []string{"127.0.0.1:1"}, StartWait: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, address := range []string{"redis://:" + secretWord + "@127.0.0.1:1", "me:" + secretWord + "@127.0.0.1:1"} {
		e := status.ProbeRedis(t.Context(), b, bus.Config{Addresses: []string{address}})
		if strings.Contains(e.Address+e.Error, secretWord) || e.Address != "127.0.0.1:1" || !e.Protected {
			t.Errorf("%s: %+v", address, e)
		}
	}
	var out bytes.Buffer
	o, err := obs.New(obs.Config{Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	o.Log.Info("trying", "address", "redis://:"+secretWord+"@host:1", "error", errors.New("dial redis://me:"+secretWord+"@host:1: refused"))
	if out.Len() == 0 || strings.Contains(out.String(), secretWord) {
		t.Errorf("%s", out.String())
	}
}
