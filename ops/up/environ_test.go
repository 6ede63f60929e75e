package up

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/fleet"
	"lyceum/platform/conf"
	"lyceum/push"
)

// TestProcessesHaveWhatUpWasStartedWith: each process of lyceum up, and the commands over the fleet, have the values of its file, its
// environment and its command line, in that order, but for what each process has for itself. Secrets stand in no command line.
func TestProcessesHaveWhatUpWasStartedWith(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"lyceum.yaml": "accounts: {registration: closed}\nobs: {log_level: warn}\nhttp: {drain_delay: 2s}\n",
		"url":         "postgres://me:word@db.test/x\n",
		"program":     "#!/bin/sh\nenv -0 > \"$3/environ\"\nprintf '%s\\0' \"$@\" > \"$3/args\"\nexec sleep 600\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("LYCEUM_DATABASE_URL", "postgres://other.test/x")
	t.Setenv("LYCEUM_OBS_LOG_LEVEL", "error")
	t.Setenv("LYCEUM_SERVER_NAME", "environ.test")
	flags := map[string]string{
		"server.data": "data", "server.listen": "127.0.0.1:0", "server.name": "flag.test",
		"accounts.registration": "open", "push.allow_http": "true", "obs.log_level": "debug",
		"database.url_file": "url", "database.connections": "9", "redis.addresses": "redis://r.test:1", "redis.prefix": "other",
		"redis.password": "hidden word",
		"fleet.secret":   "a hidden secret of many letters", "fleet.config_revision": "4", "http.rate_limits": "{sync: {per_second: 7, burst: " +
			"9}}",
		"blob.directory": "files", "up.replicas": "all=1",
	}
	c, err := fleet.Load(conf.Sources{File: "lyceum.yaml", Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs("program")
	if err != nil {
		t.Fatal(err)
	}
	u := &Supervisor{Program: program, Config: c, File: "lyceum.yaml", Flags: flags}
	if err := u.startEngines(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := u.add("events", 1); err != nil {
		t.Fatal(err)
	}
	child := u.Children()[0]
	t.Cleanup(func() { child.stop(context.Background()); u.wg.Wait() })
	var args, environ []string
	for began := time.Now(); len(args) < 9; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(child.Dir(), "args"))
		args = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if time.Since(began) > time.Minute {
			t.Fatal("the process does not start")
		}
	}
	text, err := os.ReadFile(filepath.Join(child.Dir(), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	environ = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if line := strings.Join(args, " "); strings.Contains(line, "word") || strings.Contains(line, "hidden") {
		t.Errorf("a secret stands in a command line: %s", line)
	}
	own := map[string]string{"server.data": args[2], "server.listen": args[4], "fleet.roles": args[6], "server.name": args[8]}
	process, err := fleet.Load(conf.Sources{File: "lyceum.yaml", Environ: environ, Flags: own})
	if err != nil {
		t.Fatal(err)
	}
	command, err := u.access()
	if err == nil {
		err = os.WriteFile("access", command, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	commands, err := fleet.Load(conf.Sources{File: "access", Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	want := conf.Shared(c.Sections())
	for who, found := range map[string]*fleet.Config{"the process": process, "commands": commands} {
		if got := conf.Shared(found.Sections()); !maps.Equal(got, want) {
			t.Errorf("shared keys of %s differ:\n%v\n%v", who, got, want)
		}
		if fleet.SectionOf[accounts.Config](found).Registration != fleet.SectionOf[accounts.Config](c).Registration ||
			!fleet.SectionOf[push.Config](found).AllowHTTP {
			t.Errorf("%s has the default", who)
		}
		if !reflect.DeepEqual(found.Redis, c.Redis) || found.Database != c.Database || found.Blob.Directory != c.Blob.Directory ||
			found.Obs.LogLevel != "debug" ||
			found.HTTP.DrainDelay != c.HTTP.DrainDelay || found.Fleet.Revision != 4 || found.Server.Name != "flag.test" {
			t.Errorf("%s has %+v, up has %+v", who, found, c)
		}
	}
	if process.Fleet.Roles[0] != "events" || process.Server.Data != child.Dir() || process.Server.Listen == c.Server.Listen ||
		process.Fleet.MachineID != "auto" {
		t.Errorf("the process takes what belongs to another: %+v, %+v", process.Server, process.Fleet)
	}
}

// TestUpRefusesWhatEachProcessHasForItself: roles and a machine id are not ignored.
func TestUpRefusesWhatEachProcessHasForItself(t *testing.T) {
	for want, c := range map[string]fleet.ProcessConfig{
		"fleet.roles: lyceum up gives":      {Roles: []string{"events"}},
		"fleet.machine_id: lyceum up gives": {Roles: []string{"all"}, MachineID: "3"},
	} {
		data := filepath.Join(t.TempDir(), "data")
		u := &Supervisor{Config: &fleet.Config{Server: fleet.ServerConfig{Data: data}, Fleet: c}}
		if err := u.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, found %v", want, err)
		}
		if _, err := os.Stat(data); !os.IsNotExist(err) {
			t.Errorf("it left its directory: %v", err)
		}
	}
}
