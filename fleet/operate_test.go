package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/platform/engines/enginestest"
)

// upSite is a site for lyceum up: with the given variables beside those that make it cheap.
func upSite(t *testing.T, more ...string) *site {
	t.Helper()
	s := &site{data: filepath.Join(enginestest.Dir(t), "fleet")}
	s.environ = append([]string{
		"LYCEUM_SERVER_NAME=", "LYCEUM_SERVER_DATA=" + s.data, "LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1",
	}, more...)
	return s
}

// up starts a small fleet in the background, and stops it at the end.
func (s *site) up(t *testing.T, args ...string) {
	t.Helper()
	port, err := fleet.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	s.mustRun(t, append([]string{"up", "--detach", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--set", "up.replicas=all=2"}, args...)...)
	s.stops = []func(){func() { s.mustRun(t, "stop") }}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), longestCommand)
		defer cancel()
		if running, err := fleet.FindSupervisor(s.data); err == nil {
			if err := running.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestCommandsSpeakToTheFleetOfADirectory: with the data directory of lyceum up a command reaches its fleet, while it runs and, where
// that makes sense, after it; and never makes a second server there.
func TestCommandsSpeakToTheFleetOfADirectory(t *testing.T) {
	s := upSite(t)
	s.up(t, "--server-name", "fleet.test", "--set", "accounts.registration=closed")
	if out := s.mustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "made @alice:fleet.test") {
		t.Errorf("made %s", out)
	}
	s.called("other.test").mustFail(t, []string{"fleet.test", "other.test"}, "user", "add", "zed")
	s.called("")
	if out := s.mustRun(t, "status"); strings.Count(out, "all") < 2 || !strings.Contains(out, "fleet.test") {
		t.Errorf("the status of two processes:\n%s", out)
	}
	s.mustRun(t, "doctor", "--interval", "1s")
	if out := s.mustRun(t, "ps", "--config", filepath.Join(s.data, "fleet.yaml")); !strings.Contains(out, "all-2") {
		t.Errorf("processes: %s", out)
	}
	for _, child := range []string{"all-1", "all-2"} { // --set reaches each
		log, err := os.ReadFile(filepath.Join(s.data, child, "log"))
		if err != nil || !strings.Contains(string(log), "serving") {
			t.Errorf("%s: %v\n%s", child, err, log)
		}
	}
	if text, err := os.ReadFile(filepath.Join(s.data, "fleet.yaml")); err != nil || !strings.Contains(string(text), "registration: closed") {
		t.Errorf("the configuration of the processes: %v\n%s", err, text)
	}
	s.stop()
	for _, command := range []string{"status", "doctor"} {
		s.mustFail(t, []string{"is stopped", "lyceum up --data"}, command)
	}
	s.mustRun(t, "user", "token", "alice")
	if out := s.mustRun(t, "user", "add", "bob"); !strings.Contains(out, "made @bob:fleet.test") {
		t.Errorf("made %s", out)
	}
	file := filepath.Join(t.TempDir(), "fleet.tar.zst")
	if out := s.mustRun(t, "backup", file); !strings.Contains(out, "fleet.test") {
		t.Errorf("backup: %s", out)
	}
	if found, err := filepath.Glob(filepath.Join(s.data, "lyceum.db*")); err != nil || len(found) > 0 {
		t.Errorf("a private server was made: %v, %v", found, err)
	}
	if _, err := os.Stat(filepath.Join(s.data, "postgres", "data", "postmaster.pid")); !os.IsNotExist(err) {
		t.Errorf("PostgreSQL still runs: %v", err)
	}
	refused := []string{"server.name", "fleet.test", "other.test", "nothing was changed"}
	s.called("other.test").mustFail(t, refused, "up", "--listen", "127.0.0.1:0")
	if log, err := os.ReadFile(filepath.Join(s.data, "all-1", "log")); err != nil || strings.Contains(string(log), "other.test") {
		t.Errorf("a process was started under the wrong name: %v", err)
	}
	s.called("").up(t)
	s.mustRun(t, "user", "token", "bob")
}

// TestUpOverGivenEnginesMakesItsSecret, once, and never another in the place of one that is lost.
func TestUpOverGivenEnginesMakesItsSecret(t *testing.T) {
	s := upSite(t, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t), "LYCEUM_REDIS_ADDRESSES="+enginestest.TestRedis(t),
		"LYCEUM_REDIS_PREFIX="+enginestest.Unique())
	s.up(t, "--server-name", "given.test")
	s.mustRun(t, "user", "add", "alice")
	s.stop()
	secret := filepath.Join(s.data, "secret")
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v %v", info, err)
	}
	if err := os.Rename(secret, secret+".kept"); err != nil {
		t.Fatal(err)
	}
	s.mustFail(t, []string{"fleet.secret", "put that file back", secret}, "up", "--listen", "127.0.0.1:0")
	if err := os.Rename(secret+".kept", secret); err != nil {
		t.Fatal(err)
	}
	s.up(t)
	s.mustRun(t, "user", "token", "alice")
}

// TestOneProcessOverPostgresNeedsItsAddressOnly: files and secret are in its data directory, where another one may not be.
func TestOneProcessOverPostgresNeedsItsAddressOnly(t *testing.T) {
	address := enginestest.TestPostgres(t)
	s := upSite(t, "LYCEUM_DATABASE_URL="+address)
	s.process(t, s.data)
	s.mustRun(t, "user", "add", "alice")
	s.mustFail(t, []string{"another process uses the data directory", "--data"}, "serve", "--listen", "127.0.0.1:0")
	s.mustFail(t, []string{"sealed with the secret"}, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "second"))
	secret := filepath.Join(s.data, "secret")
	text, err := os.ReadFile(secret)
	if info, e := os.Stat(secret); err != nil || e != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v %v", err, e)
	}
	s.stop()
	s.process(t, s.data)
	s.mustRun(t, "user", "token", "alice")
	s.stop()
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	s.mustFail(t, []string{"fleet.secret", "put that file back", secret}, "serve", "--listen", "127.0.0.1:0")
	if _, err := os.Stat(secret); !os.IsNotExist(err) {
		t.Errorf("another secret was made: %v", err)
	}
	if err := os.WriteFile(secret, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.process(t, s.data)
	s.mustRun(t, "user", "token", "alice")
}

// TestAVariableWithoutAKeyIsTold, and does not make a server beside the one that was meant.
func TestAVariableWithoutAKeyIsTold(t *testing.T) {
	s := upSite(t, "LYCEUM_DATABASE=postgres://me:geheim@db.test/x")
	s.mustFail(t, []string{"LYCEUM_DATABASE", "LYCEUM_DATABASE_URL"}, "serve")
	nothing(t, s.data)
}

// TestUsersTokensAndReportsOnTheCommandLine: beside a running process, over a stopped one, and in a fleet.
func TestUsersTokensAndReportsOnTheCommandLine(t *testing.T) {
	shapes := map[string]func(t *testing.T) *site{
		"running": func(t *testing.T) *site {
			s := upSite(t, "LYCEUM_ACCOUNTS_REGISTRATION=token", "LYCEUM_HTTP_RATE_LIMITS_OFF=true").called("users.test")
			s.process(t, s.data)
			return s
		},
		"stopped": func(t *testing.T) *site {
			s := upSite(t).called("users.test")
			s.process(t, s.data)
			s.stop()
			return s
		},
		"fleet": func(t *testing.T) *site {
			s := newSite(t, "postgres").called("users.test")
			s.start(t)
			s.data = t.TempDir() // commands are of another directory
			s.environ = append(s.environ, "LYCEUM_SERVER_DATA="+s.data)
			return s
		},
	}
	for name, open := range shapes {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			shows := func(words []string, args ...string) {
				t.Helper()
				out := strings.Join(strings.Fields(s.mustRun(t, args...)), " ")
				for _, word := range words {
					if !strings.Contains(out, word) {
						t.Errorf("lyceum %v: expected %q, found %s", args, word, out)
					}
				}
			}
			s.mustRun(t, "user", "add", "--admin", "alice")
			s.mustRun(t, "user", "add", "bob")
			shows([]string{"@alice:users.test administrator active", "@bob:users.test user active"}, "user", "list")
			shows([]string{"@bob:users.test"}, "user", "promote", "bob")
			shows([]string{"@bob:users.test administrator active"}, "user", "list")
			s.mustRun(t, "user", "demote", "@bob:users.test")
			s.mustRun(t, "user", "lock", "bob")
			shows([]string{"@bob:users.test user locked"}, "user", "list")
			s.mustRun(t, "user", "unlock", "bob")
			s.mustRun(t, "user", "suspend", "bob")
			shows([]string{"@bob:users.test user suspended"}, "user", "list")
			s.mustRun(t, "user", "unsuspend", "bob")
			s.mustRun(t, "user", "deactivate", "bob")
			shows([]string{"@alice:users.test administrator active", "@bob:users.test user deactivated"}, "user", "list")
			s.mustFail(t, []string{"there is no user @carol:users.test"}, "user", "lock", "carol")

			shows([]string{"welcome"}, "token", "new", "--name", "welcome", "--uses", "2", "--expires", "7d")
			made := strings.TrimSpace(s.mustRun(t, "token", "new", "--uses", "0"))
			shows([]string{"welcome 2 0 0 20", made + " no limit 0 0 never user"}, "token", "list")
			s.mustFail(t, []string{"already"}, "token", "new", "--name", "welcome")
			if name == "running" {
				if _, err := s.join(t, "dora", "welcome"); err != nil {
					t.Error(err)
				}
				shows([]string{"welcome 2 1 0"}, "token", "list")
			}
			s.mustRun(t, "token", "revoke", "welcome")
			s.mustFail(t, []string{"there is no registration token welcome"}, "token", "revoke", "welcome")
			shows([]string{"RECEIVED REPORTER ROOM EVENT USER REASON"}, "reports", "list")
			if name != "stopped" {
				alice := strings.TrimSpace(s.mustRun(t, "user", "token", "alice"))
				s.post(t, alice, "/_matrix/client/v3/users/@bob:users.test/report", `{"reason":"it shouts\u001b[31m"}`)
				shows([]string{"@alice:users.test - - @bob:users.test it shouts [31m"}, "reports", "list")
			}
		})
	}
}

// post sends a request with a body and wants 200.
func (s *site) post(t *testing.T, token, path, body string) []byte {
	t.Helper()
	status, answer := s.try(t, token, path, body)
	if status != http.StatusOK {
		t.Errorf("POST %s: %d %s", path, status, answer)
	}
	return answer
}

func (s *site) try(t *testing.T, token, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// join registers a user with a registration token.
func (s *site) join(t *testing.T, name, token string) ([]byte, error) {
	t.Helper()
	const path = "/_matrix/client/v3/register"
	_, answer := s.try(t, "", path, fmt.Sprintf(`{"username":%q,"password":"a long password"}`, name))
	var begun struct {
		Session string `json:"session"`
	}
	if err := json.Unmarshal(answer, &begun); err != nil {
		return answer, err
	}
	for _, stage := range []string{fmt.Sprintf(`"type":"m.login.registration_token","token":%q`, token), `"type":"m.login.dummy"`} {
		body := fmt.Sprintf(`{"username":%q,"password":"a long password","auth":{%s,"session":%q}}`, name, stage, begun.Session)
		status, out := s.try(t, "", path, body)
		if status == http.StatusOK {
			return out, nil
		}
		answer = out
	}
	return answer, fmt.Errorf("not registered: %s", answer)
}

// TestAStoppedServerIsSaidAndNotHeld: status and doctor tell that nobody runs, and a server can start between two looks.
func TestAStoppedServerIsSaidAndNotHeld(t *testing.T) {
	s := upSite(t).called("stopped.test")
	s.process(t, s.data)
	s.stop()
	if out := s.mustRun(t, "status"); !strings.Contains(out, "no process of this server runs") || !strings.Contains(out, "nobody:16") {
		t.Errorf("status: %s", out)
	}
	s.mustFail(t, []string{"no process runs"}, "doctor", "--interval", "10ms")
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	watch := exec.Command(name, "status", "--watch", "--interval", "1s")
	watch.Env, watch.Dir, watch.Stdout, watch.Stderr = append(os.Environ(), s.environ...), t.TempDir(), &log, &log
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	s.process(t, s.data)
	time.Sleep(2500 * time.Millisecond)
	if err := errors.Join(watch.Process.Signal(syscall.SIGTERM), watch.Wait()); err != nil {
		t.Errorf("status --watch: %v\n%s", err, log.String())
	}
	if text := log.String(); !strings.Contains(text, "no process of this server runs") || !strings.Contains(text, "1 processes") {
		t.Errorf("the looks:\n%s", text)
	}
}

// TestAStartWaitsForPostgres that takes connections a moment later, and tells so; and does not wait for one that refuses it.
func TestAStartWaitsForPostgres(t *testing.T) {
	address, err := url.Parse(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	there := address.Host
	port, err := fleet.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address.Host = fmt.Sprintf("127.0.0.1:%d", port)
	s := upSite(t, "LYCEUM_DATABASE_URL="+address.String(), "LYCEUM_DATABASE_START_WAIT=0s")
	s.mustFail(t, []string{"database.url", "connection refused"}, "serve", "--listen", "127.0.0.1:0")
	s.environ[len(s.environ)-1] = "LYCEUM_DATABASE_START_WAIT=30s"
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() {
		time.Sleep(time.Second)
		passOn(ctx, t, address.Host, there)
	})
	s.process(t, s.data)
	s.stop()
	address.User = url.UserPassword("postgres", "wrong")
	s.environ = append(s.environ, "LYCEUM_DATABASE_URL="+address.String())
	began := time.Now()
	s.mustFail(t, []string{"database.url", "password authentication failed"}, "serve", "--listen", "127.0.0.1:0")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("a wrong password was tried for %s", took)
	}
}

// passOn listens at an address and passes connections on, until ctx ends. The first two end at once, as those of a PostgreSQL that begins.
func passOn(ctx context.Context, t *testing.T, from, to string) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Error(err)
		return
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for n := 0; ; n++ {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if n < 2 {
			_ = in.Close()
			continue
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
	}
}

// TestAWrongCommandLineIsSaidInOneLine, with where its help is; and how the server ends is in its log.
func TestAWrongCommandLineIsSaidInOneLine(t *testing.T) {
	s := upSite(t).called("lines.test")
	for line, want := range map[string]string{
		"serve --datta x":  "lyceum: unknown flag --datta, did you mean \"--data\"?: see lyceum serve --help\n",
		"user":             "see lyceum user --help\n",
		"user add --bar x": "lyceum: unknown flag --bar: see lyceum user add --help\n",
	} {
		if out, err := s.run(t, strings.Fields(line)...); err == nil || !strings.HasSuffix(out, want) || strings.Count(out, "\n") != 1 {
			t.Errorf("lyceum %s: %v %q, expected %q", line, err, out, want)
		}
	}
	if out := s.mustRun(t, "--version"); !strings.HasPrefix(out, "lyceum ") {
		t.Errorf("version: %s", out)
	}
	cmd := s.process(t, s.data)
	s.stop()
	if text := cmd.Stderr.(*bytes.Buffer).String(); !strings.Contains(text, "stopping: SIGTERM") {
		t.Errorf("the log of a process that got SIGTERM:\n%s", text)
	}
}
