package fleettest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/ops/bench"
	"lyceum/ops/up"
)

// buildVersion makes a binary of another version. more are files that only that version has: a schema step, for example.
func buildVersion(t *testing.T, dir, version string, more map[string]string) string {
	t.Helper()
	program := filepath.Join(dir, "lyceum-"+version)
	args := []string{"build", "-o", program, "-ldflags", "-X lyceum/platform/obs.Version=" + version}
	if len(more) > 0 {
		replace := map[string]string{}
		for name, text := range more {
			abs, err := filepath.Abs(filepath.Join("..", name))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[abs] = file
		}
		text, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			t.Fatal(err)
		}
		overlay := filepath.Join(dir, "overlay-"+version+".json")
		if err := os.WriteFile(overlay, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, "lyceum/cmd/lyceum")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", version, err, out)
	}
	return program
}

// oneStreamMore is sync/token.go of a version whose tokens have one stream more.
func oneStreamMore(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../syncapi/token.go")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, change := range [][2]string{
		{"tokenSize     = accountDataAt + 1\n", "sessionsAt = accountDataAt + 1\n\ttokenSize = sessionsAt + 4\n"},
		{"d.Accounts.DataStream().OwnPart(accountDataAt),", "d.Accounts.DataStream().OwnPart(accountDataAt), " +
			"d.Accounts.Sessions().Part(sessionsAt),"},
	} {
		if strings.Count(text, change[0]) != 1 {
			t.Fatalf("sync/token.go: %q is not there once: this test adds a stream to it", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	return text
}

// reader is a client that writes to itself and goes on from token to token, while versions change.
type reader struct {
	t     *testing.T
	url   string
	token string // of access
	stop  func()
	done  chan struct{}

	sent  int
	got   map[string]int
	forms []byte // in which the tokens of /sync began, without repetitions
}

func startReader(t *testing.T, url string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{t: t, url: url + "/_matrix/client/v3", stop: cancel, done: make(chan struct{}), got: map[string]int{}}
	r.token = r.call("POST", "/register", `{"username":"reader","password":"reader-password","auth":{"type":"m.login.dummy"}}`).
		Get("access_token").String()
	room := r.call("POST", "/createRoom", `{}`).Get("room_id").String()
	go func() {
		defer close(r.done)
		since := ""
		for more := true; more; {
			more = ctx.Err() == nil
			r.call("PUT", fmt.Sprintf("/rooms/%s/send/m.room.message/%d", room, r.sent), fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, r.sent))
			r.sent++
			a := r.call("GET", "/sync?timeout=100&since="+since, "")
			since = a.Get("next_batch").String()
			if since == "" { // the test has an error
				return
			}
			if n := len(r.forms); n == 0 || r.forms[n-1] != since[0] {
				r.forms = append(r.forms, since[0])
			}
			for _, e := range a.Get("rooms.join").Map()[room].Get("timeline.events").Array() {
				if body := e.Get("content.body"); body.Exists() {
					r.got[body.String()]++
				}
			}
		}
	}()
	t.Cleanup(func() {
		r.stop()
		<-r.done
	})
	return r
}

// call asks until the answer is 200. A process that stops may break a connection, but no version refuses what another gave.
func (r *reader) call(method, path, body string) gjson.Result {
	for range 100 {
		if r.t.Context().Err() != nil {
			return gjson.Result{}
		}
		req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
		if err != nil {
			r.t.Error(err)
			break
		}
		req.Header.Set("Authorization", "Bearer "+r.token)
		var text []byte
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			text, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		switch {
		case err == nil && res.StatusCode == 200:
			return gjson.ParseBytes(text)
		case err == nil && res.StatusCode < 500:
			r.t.Errorf("%s %s: %d %s", method, path, res.StatusCode, text)
			return gjson.Result{}
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Errorf("%s %s: no answer", method, path)
	return gjson.Result{}
}

// end stops the reader and looks at what it got.
func (r *reader) end(t *testing.T) {
	r.stop()
	<-r.done
	for n := range r.sent {
		if got := r.got[fmt.Sprint(n)]; got != 1 {
			t.Errorf("message %d of %d came %d times", n, r.sent, got)
		}
	}
	if string(r.forms) != "sv" { // the older version carries on what the newer one wrote
		t.Errorf("tokens began with %q", r.forms)
	}
	t.Logf("%d messages read once, from token to token of both versions", r.sent)
}

// openDir makes a directory that other users may read too: PostgreSQL may run as one.
func openDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestARolloutLosesNoRequest upgrades a living fleet from the command line, over another Y, another schema and tokens with a
// stream more, while bench sends and reads back and a client syncs; then a build that can not start is rolled back, and
// another X is refused.
func TestARolloutLosesNoRequest(t *testing.T) {
	dir := openDir(t, "lyceum-rollout-")
	steps, err := filepath.Glob("../accounts/migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	step := fmt.Sprintf("accounts/migrations/%04d_rollout_test.sql", len(steps)+1)
	first := buildVersion(t, dir, "1.4.2", nil)
	second := buildVersion(t, dir, "1.5.0", map[string]string{
		step: "CREATE TABLE rollout_test (n BIGINT NOT NULL PRIMARY KEY);", "syncapi/token.go": oneStreamMore(t),
	})
	third := filepath.Join(dir, "third") // only its version is asked
	if err := os.WriteFile(third, []byte("#!/bin/sh\necho lyceum 2.0.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	run := func(program string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append(args, "--data", data)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(),
			"LYCEUM_ACCOUNTS_REGISTRATION=open", "LYCEUM_HTTP_RATE_LIMITS_OFF=true",
			"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	if out, err := run(first, "up", "--detach", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--server-name", "rollout.test"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := run(first, "stop"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})

	// The load goes on from before the rollout to after it.
	type outcome struct {
		result *bench.Result
		err    error
	}
	sent := make(chan outcome, 1)
	started := &begin{sending: make(chan struct{})}
	go func() {
		r, err := (bench.Send{Senders: 4, Rooms: 4, Duration: 40 * time.Second}).Run(t.Context(), &bench.Target{URL: url}, started)
		sent <- outcome{r, err}
	}()
	select {
	case <-started.sending:
	case o := <-sent:
		t.Fatal("the load did not start: ", o.err)
	}
	look := startReader(t, url)
	out, err := run(first, "rollout", "--watch", "1s", second)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("the rollout:\n%s", out)
	if ps, err := run(first, "ps"); err != nil || strings.Contains(ps, "1.4.2") || !strings.Contains(ps, "1.5.0") {
		t.Errorf("after the rollout: %v\n%s", err, ps)
	}

	// A binary that can not serve changes nothing.
	broken := filepath.Join(dir, "broken")
	text := "#!/bin/sh\n[ \"$1\" = version ] && echo lyceum 1.6.0 && exit 0\necho broken >&2\nexit 1\n"
	if err := os.WriteFile(broken, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := run(first, "rollout", "--watch", "1s", broken); err == nil || !strings.Contains(out, "taken back") {
		t.Errorf("a broken binary: %v\n%s", err, out)
	}
	if ps, err := run(first, "ps"); err != nil || strings.Contains(ps, "1.6.0") || !strings.Contains(ps, "1.5.0") {
		t.Errorf("after the broken binary: %v\n%s", err, ps)
	}
	if out, err := run(first, "rollout", third); err == nil || !strings.Contains(out, "can not work together") {
		t.Errorf("another X: %v\n%s", err, out)
	}
	// Back to the older Y, over the newer schema.
	if out, err := run(first, "rollout", "--watch", "1s", first); err != nil {
		t.Errorf("back: %v\n%s", err, out)
	}
	look.end(t)
	o := <-sent
	if o.err != nil {
		t.Fatal(o.err)
	}
	if o.result.Check != "ok" || o.result.Errors > 0 || o.result.Retries > 0 {
		t.Errorf("the load: check %s, %d errors, %d retries", o.result.Check, o.result.Errors, o.result.Retries)
	}
	t.Logf(
		"%d messages while the fleet was upgraded and taken back: errors %d, retries %d, longest pause %.0f ms", o.result.Done,
		o.result.Errors, o.result.Retries, o.result.Longest,
	)
}
