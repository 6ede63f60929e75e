package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/platform/conf"
	"lyceum/platform/engines/enginestest"
)

// TestCommandsHaveTheConfigurationOfTheProcesses: with the file that lyceum up writes, commands have the same blob store,
// database and Redis as the processes, and the same value of each shared key.
func TestCommandsHaveTheConfigurationOfTheProcesses(t *testing.T) {
	engines := []string{
		"LYCEUM_FLEET_SECRET=a secret of sixteen", "LYCEUM_DATABASE_URL=postgres://me:word@db.test/x",
		"LYCEUM_REDIS_ADDRESSES=redis://:word@redis.test:6379", "LYCEUM_REDIS_PREFIX=pre",
	}
	for name, more := range map[string][]string{
		"default":     nil,
		"a directory": {"LYCEUM_BLOB_DIRECTORY=relative/files"},
		"S3": {
			"LYCEUM_BLOB_S3_ENDPOINT=https://s3.test", "LYCEUM_BLOB_S3_BUCKET=b", "LYCEUM_BLOB_S3_ACCESS_KEY=key",
			"LYCEUM_BLOB_S3_SECRET_KEY=word",
		},
		"fixed addresses":  {"LYCEUM_FLEET_OPS_LISTEN=127.0.0.1:1", "LYCEUM_FLEET_CONFIG_REVISION=3"},
		"many connections": {"LYCEUM_DATABASE_CONNECTIONS=50"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			environ := append(append([]string{"LYCEUM_SERVER_NAME=up.test", "LYCEUM_SERVER_DATA=data"}, engines...), more...)
			c, err := fleet.Load(conf.Sources{Environ: environ})
			if err != nil {
				t.Fatal(err)
			}
			u := &Supervisor{Config: c, Environ: environ}
			if err := os.MkdirAll("data", 0o700); err != nil {
				t.Fatal(err)
			}
			if err := u.startEngines(t.Context()); err != nil {
				t.Fatal(err)
			}
			access, err := u.access()
			if err == nil {
				err = u.writeAccess(&run{access: access})
			}
			if err != nil {
				t.Fatal(err)
			}
			process, err := fleet.Load(conf.Sources{Environ: u.Environ})
			if err != nil {
				t.Fatal(err)
			}
			command, err := fleet.Load(conf.Sources{Environ: []string{}, File: u.AccessFile()})
			if err != nil {
				t.Fatal(err)
			}
			want, got := process.Blob, command.Blob
			want.Scratch, got.Scratch = "", ""
			if want != got {
				t.Errorf("the processes store files in %+v, commands in %+v", want, got)
			}
			if command.Database.URL != process.Database.URL || len(command.Redis.Addresses) != 1 ||
				command.Redis.Addresses[0] != process.Redis.Addresses[0] {
				t.Errorf("the engines of commands are %v, %v", command.Database.URL.Reveal(), command.Redis.Addresses)
			}
			secret, err := command.ExistingSecret()
			if err != nil || string(secret) != c.Fleet.Secret.Reveal() {
				t.Errorf("the secret of commands is %q, %v", secret, err)
			}
			process.Fleet.Secret, command.Fleet.Secret = "", ""
			if want, got := conf.Shared(process.Sections()), conf.Shared(command.Sections()); !maps.Equal(want, got) {
				t.Errorf("shared keys differ:\n%v\n%v", want, got)
			}
			if command.Server.Data == process.Server.Data || command.Fleet.Ops != "" {
				t.Errorf("a command takes what belongs to a process: %+v, %+v", command.Server, command.Fleet)
			}
			if info, err := os.Stat(u.AccessFile()); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("others can read it: %v, %v", info.Mode(), err)
			}
		})
	}
}

// TestTheFileOfAnOlderVersionIsMended: a fleet that an older version started goes on, and so does the file that it wrote, which
// names no store that a process uses.
func TestTheFileOfAnOlderVersionIsMended(t *testing.T) {
	for _, stored := range []bool{true, false} {
		data := t.TempDir()
		if stored {
			if err := os.Mkdir(filepath.Join(data, "blobs"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		old, err := json.Marshal(map[string]any{
			"server": map[string]string{"name": "up.test", "data": data + "/commands"}, "blob": map[string]string{"directory": data + "/commands"},
			"database": map[string]string{"url": "postgres://db.test/x"},
			"redis":    map[string]any{"addresses": []string{"redis://r.test:1"}, "password": ""},
			"fleet":    map[string]string{"secret": "a secret of sixteen"},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(data, "fleet.yaml")
		if err := os.WriteFile(file, old, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := MendAccess(data); err != nil {
				t.Fatal(err)
			}
			c, err := fleet.Load(conf.Sources{Environ: []string{}, File: file})
			if err != nil {
				t.Fatal(err)
			}
			want := filepath.Join(data, "commands") // files are in S3 or a directory that somebody named, and only up knows it
			if stored {
				want = filepath.Join(data, "blobs")
			}
			if c.Blob.Directory != want || c.Server.Name != "up.test" || c.Database.URL != "postgres://db.test/x" {
				t.Errorf("found %+v", c)
			}
		}
	}
	if err := MendAccess(t.TempDir()); err != nil {
		t.Errorf("without a file: %v", err)
	}
}

// TestTheAddressOfAFleetThatWasKilled: its routers end a little later than lyceum up, and a new one waits for that.
func TestTheAddressOfAFleetThatWasKilled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &Supervisor{Config: &fleet.Config{Server: fleet.ServerConfig{Listen: l.Addr().String()}}}
	time.AfterFunc(500*time.Millisecond, func() { _ = l.Close() })
	if err := u.openPublic(); err != nil {
		t.Fatal(err)
	}
	defer u.public.Close()
	if err := u.openPublic(); err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("an address that stays taken: %v", err)
	}
}

// TestUpChecksBeforeItMakesAnything: nothing is made, and each cause is said once, with its key and without a password.
func TestUpChecksBeforeItMakesAnything(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	postgres := enginestest.TestPostgres(t)
	place, err := url.Parse(postgres)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(u *url.URL)) string {
		u := *place
		u.RawQuery = "" // which allows TLS
		change(&u)
		return u.String()
	}
	for name, c := range map[string]struct{ listen, url, want string }{
		"a port that is taken":  {taken.Addr().String(), "", "server.listen"},
		"an address of nothing": {"nonsense", "", "server.listen"},
		"no PostgreSQL":         {"127.0.0.1:0", with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), "connection refused"},
		"a wrong password": {
			"127.0.0.1:0", with(func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "geheim") }),
			"password authentication failed",
		},
		"a wrong database": {"127.0.0.1:0", with(func(u *url.URL) { u.Path = "/nowhere" }), `database "nowhere" does not exist`},
	} {
		data := filepath.Join(t.TempDir(), "data")
		u := &Supervisor{Config: &fleet.Config{
			Server:   fleet.ServerConfig{Data: data, Listen: c.listen},
			Database: fleet.DatabaseConfig{URL: conf.Secret(c.url)},
		}}
		err := u.Start(t.Context())
		text := fmt.Sprint(err)
		if err == nil || strings.Count(text, c.want) != 1 || strings.Contains(text, "\n") || strings.Contains(text, "geheim") ||
			strings.Contains(text, "TLS") {
			t.Errorf("%s: expected one line with %q, found %v", name, c.want, err)
		}
		if c.url != "" && !strings.HasPrefix(text, "database.url: ") {
			t.Errorf("%s: the key is not named: %v", name, err)
		}
		if found, err := os.ReadDir(data); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it made %v, %v", name, found, err)
		}
	}
}

// TestNoFleetInTheDirectoryOfServe: a second server beside the first would have its blobs and its secret.
func TestNoFleetInTheDirectoryOfServe(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "lyceum.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []conf.Secret{"", "postgres://127.0.0.1:1/x"} {
		u := &Supervisor{Config: &fleet.Config{
			Server:   fleet.ServerConfig{Data: data, Listen: "127.0.0.1:0"},
			Database: fleet.DatabaseConfig{URL: url},
		}}
		err := u.Start(t.Context())
		for _, want := range []string{data, "lyceum serve", "lyceum backup", "lyceum restore"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("expected an error with %q, found %v", want, err)
			}
		}
	}
	if found, err := os.ReadDir(data); len(found) != 1 {
		t.Errorf("it made %v, %v", found, err)
	}
}

// TestAFleetHasEveryRole: up does not start a fleet that answers some requests never.
func TestAFleetHasEveryRole(t *testing.T) {
	for _, c := range []struct {
		replicas map[string]int
		missing  string
	}{
		{nil, ""},
		{EachRole(), ""},
		{map[string]int{"all": 1}, ""},
		{map[string]int{"all": 1, "events": 0}, ""},
		{map[string]int{"all": 0, "router": 1}, "client sync events receipts typing presence todevice accountdata devicelists push media " +
			"uploads downloads thumbnails admin"},
		{
			map[string]int{"router+client": 1, "sync": 2, "events": 2, "media": 1},
			"receipts typing presence todevice accountdata devicelists push",
		},
		{
			map[string]int{"router+client+sync+events+receipts+typing+presence+todevice+accountdata+devicelists+push": 1, "uploads": 1},
			"media downloads thumbnails",
		},
		{map[string]int{"events": 0}, strings.Join(roleNames(), " ")},
	} {
		config := &fleet.UpConfig{Replicas: c.replicas}
		if found := strings.Join(MissingRoles(config), " "); found != c.missing {
			t.Errorf("%v: found %q to be missing, expected %q", c.replicas, found, c.missing)
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	u := &Supervisor{Config: &fleet.Config{Server: fleet.ServerConfig{Data: data}, Up: fleet.UpConfig{Replicas: map[string]int{"events": 0}}}}
	if err := u.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no process has router, client") {
		t.Errorf("found %v", err)
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("it left its directory: %v", err)
	}
}

func roleNames() []string {
	names := make([]string, len(fleet.Roles))
	for i, r := range fleet.Roles {
		names[i] = r.Name
	}
	return names
}
