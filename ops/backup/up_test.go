package backup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lyceum/ops/opstest"
	"lyceum/ops/up"
	"lyceum/platform/engines/enginestest"
)

// recipe is the example in a section of the manual, with the commands one below the other.
func recipe(t *testing.T, after string) string {
	t.Helper()
	text, err := os.ReadFile("../../manual/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), after)
	block := regexp.MustCompile(`(?m)(^    .*\n)+`).FindString(section)
	if !found || block == "" {
		t.Fatalf("the manual has no example after %q", after)
	}
	return block
}

// TestAFleetOfUpIsRestored by the commands of the manual, typed as they are printed: on a fresh machine, and over another fleet. Users,
// messages and media are there.
func TestAFleetOfUpIsRestored(t *testing.T) {
	s := opstest.NewUpSite(t)
	s.Up(t, "--server-name", "fleet.test", "--set", "accounts.registration=open")
	alice := s.Register(t, "alice")
	room := alice.Do(t, "POST", "/_matrix/client/v3/createRoom", map[string]any{}).Get("room_id").String()
	alice.Do(t, "PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "kept"})
	media := strings.TrimPrefix(alice.Do(t, "POST", "/_matrix/media/v3/upload", []byte("a file")).Get("content_uri").String(), "mxc://")
	work := enginestest.Dir(t)
	for _, dir := range []string{"backups", "safe"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file, kept := filepath.Join(work, "backups", "lyceum.tar.zst"), filepath.Join(work, "safe", "lyceum-secret")
	if out := s.MustRun(t, "backup", file); !strings.Contains(out, "secret:   not in it") ||
		!strings.Contains(out, filepath.Join(s.Data, "secret")+" ") {
		t.Errorf("the backup does not say where the secret is:\n%s", out)
	}
	s.Stop()
	secret, err := os.ReadFile(filepath.Join(s.Data, "secret"))
	if err == nil {
		err = os.WriteFile(kept, secret, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err := opstest.Program()
	if err != nil {
		t.Fatal(err)
	}
	environ := append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64",
		"LYCEUM_ACCOUNTS_PASSWORD_PASSES=1")
	typed := func(commands string) string {
		t.Helper()
		port, err := up.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range [][2]string{
			{"/backups/", filepath.Join(work, "backups") + "/"},
			{"/safe/", filepath.Join(work, "safe") + "/"},
			{"127.0.0.1:8008", fmt.Sprintf("127.0.0.1:%d", port)},
		} {
			commands = strings.ReplaceAll(commands, r[0], r[1])
		}
		ctx, cancel := context.WithTimeout(t.Context(), opstest.LongestCommand)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-e", "-x", "-c", commands)
		cmd.Dir, cmd.Env = work, environ
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	there := &opstest.Site{Data: filepath.Join(work, "fleet2"), Environ: []string{"", "LYCEUM_SERVER_DATA=" + filepath.Join(work, "fleet2")}}
	t.Cleanup(func() {
		if running, err := up.FindSupervisor(there.Data); err == nil {
			if err := running.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	})
	same := func(out string) {
		t.Helper()
		m := regexp.MustCompile(`serving fleet\.test at (\S+) `).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("it does not serve fleet.test:\n%s", out)
		}
		there.URL = strings.TrimSuffix(m[1], ";")
		a := alice.At(there)
		if got := a.Do(t, "GET", "/_matrix/client/v3/rooms/"+room+"/messages?dir=b", nil).Get("chunk.0.content.body").String(); got != "kept" {
			t.Errorf("the last message is %q", got)
		}
		status, text, err := a.Try(t.Context(), "GET", "/_matrix/client/v1/media/download/"+media, nil)
		if status != 200 || string(text) != "a file" {
			t.Errorf("the file: %d %q %v", status, text, err)
		}
		if out := there.MustRun(t, "user", "list"); !strings.Contains(out, "@alice:fleet.test") {
			t.Errorf("users: %s", out)
		}
	}
	empty := filepath.Join(work, "empty") // a restore that fails leaves nothing
	there.MustFail(t, []string{"fleet.secret", filepath.Join(empty, "secret"), "--new-secret"}, "restore", file, "--data", empty, "--up")
	opstest.NotCreated(t, empty)

	fresh := recipe(t, "On a fresh machine:")
	out := typed(fresh)
	if !strings.Contains(out, "start it: lyceum up --data") {
		t.Errorf("the restore does not say how to start it:\n%s", out)
	}
	same(out)
	there.MustFail(t, []string{"runs", "lyceum stop --data"}, "restore", file, "--replace")
	const start = "; lyceum up --data fleet2 --listen 127.0.0.1:8008 --detach; "
	typed("lyceum stop --data fleet2; rm -r fleet2" + start + "lyceum user add carol --data fleet2")
	same(typed(recipe(t, "in place of what it holds:")))
	if out := there.MustRun(t, "user", "list"); strings.Contains(out, "carol") {
		t.Errorf("users: %s", out)
	}
	typed("lyceum stop --data fleet2")
	there.MustFail(t, []string{"--replace"}, "restore", file)
	same(typed("lyceum restore /backups/lyceum.tar.zst --config fleet2/fleet.yaml --replace" + start))
	typed("lyceum stop --data fleet2; rm -r fleet2") // the secret is lost for ever
	same(typed("lyceum restore /backups/lyceum.tar.zst --data fleet2 --up --new-secret" + start))
}
