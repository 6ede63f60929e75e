package fleettest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/ops/up"
)

// upWait is more than anything takes on a small machine with much else to do.
const upWait = 4 * time.Minute

// upFleet is a fleet that lyceum up --detach runs, with its PostgreSQL and Redis.
type upFleet struct {
	t                       *testing.T
	dir, data, program, url string
	log                     string // what up said in runs before this one
}

// startUp builds the binary and starts the fleet; it ends with the test.
func startUp(t *testing.T) *upFleet {
	t.Helper()
	dir := openDir(t, "lyceum-up-")
	u := &upFleet{t: t, dir: dir, data: filepath.Join(dir, "data"), program: buildVersion(t, dir, "1.0.0", nil)}
	t.Cleanup(func() {
		if len(u.processes()) > 0 {
			if out, err := u.run("stop"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		if t.Failed() {
			t.Logf("what up said:\n%s", u.said())
		}
	})
	u.start()
	return u
}

func (u *upFleet) start() {
	u.t.Helper()
	if text, err := os.ReadFile(filepath.Join(u.data, "up.log")); err == nil {
		u.log += string(text) // the next one begins its log anew
	}
	port, err := up.FreePort()
	if err != nil {
		u.t.Fatal(err)
	}
	u.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	if out, err := u.run("up", "--detach", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--server-name", "up.test", "--set",
		"accounts.registration=open"); err != nil {
		u.t.Fatalf("%v\n%s", err, out)
	}
}

// run runs a command of the binary over the fleet's directory.
func (u *upFleet) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.t.Context()), upWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.program, append(args, "--data", u.data)...)
	cmd.Dir = u.dir
	cmd.Env = append(os.Environ(),
		"LYCEUM_HTTP_RATE_LIMITS_OFF=true",
		"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (u *upFleet) said() string {
	text, _ := os.ReadFile(filepath.Join(u.data, "up.log"))
	return u.log + string(text)
}

// row is what lyceum ps shows of a process.
type row struct {
	pid      int
	state    string
	restarts string
}

func (u *upFleet) row(name string) row {
	u.t.Helper()
	out, err := u.run("ps")
	if err != nil {
		u.t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 4 && f[0] == name {
			pid, _ := strconv.Atoi(f[1])
			return row{pid, f[2], f[len(f)-2]}
		}
	}
	u.t.Fatalf("lyceum ps shows no %s:\n%s", name, out)
	return row{}
}

func (u *upFleet) await(what string, ok func() bool) {
	u.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > upWait {
			u.t.Fatalf("in vain for %s: %s", upWait, what)
		}
	}
}

// processes are those that run in the fleet's directory: the servers, their children, and those of Lyceum.
func (u *upFleet) processes() (out []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, d := range dirs {
		at, err := os.Readlink(d)
		if err == nil && (at == u.dir || strings.HasPrefix(at, u.dir+"/")) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(d), "cmdline"))
			out = append(out, d+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return out
}

func (u *upFleet) kill(pid int) {
	u.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		u.t.Fatalf("kill %d: %v", pid, err)
	}
}

// sender is a client that sends one message after the other, each until it is acknowledged.
type sender struct {
	t     *testing.T
	url   string
	token string
	room  string
	stop  context.CancelFunc
	done  chan struct{}
	acked atomic.Int64

	mu  sync.Mutex
	ids []string // of the events, in the order of their answers
}

func startSender(t *testing.T, base string) *sender {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &sender{t: t, url: base + "/_matrix/client/v3", stop: cancel, done: make(chan struct{})}
	s.token = s.call("POST", "/register", `{"username":"sender","password":"sender-password","auth":{"type":"m.login.dummy"}}`).
		Get("access_token").String()
	s.room = url.PathEscape(s.call("POST", "/createRoom", `{}`).Get("room_id").String())
	go func() {
		defer close(s.done)
		for n := 0; ctx.Err() == nil; n++ {
			id := s.call("PUT", fmt.Sprintf("/rooms/%s/send/m.room.message/%d", s.room, n), fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, n)).
				Get("event_id").String()
			if id == "" { // the test has an error
				return
			}
			s.mu.Lock()
			s.ids = append(s.ids, id)
			s.mu.Unlock()
			s.acked.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { s.stop(); <-s.done })
	return s
}

// call asks until the answer is 200, as clients do with a request that may be done twice.
func (s *sender) call(method, path, body string) gjson.Result {
	last := ""
	for began := time.Now(); time.Since(began) < upWait && s.t.Context().Err() == nil; time.Sleep(50 * time.Millisecond) {
		status, text, err := s.try(method, path, body)
		switch {
		case err != nil:
			last = err.Error()
		case status == http.StatusOK:
			return gjson.Parse(text)
		case status < 500:
			s.t.Errorf("%s %s: %d %s", method, path, status, text)
			return gjson.Result{}
		default:
			last = fmt.Sprint(status, " ", text)
		}
	}
	s.t.Errorf("%s %s: no answer; the last: %s", method, path, last)
	return gjson.Result{}
}

func (s *sender) try(method, path, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(res.Body)
	return res.StatusCode, text.String(), err
}

// more waits until messages are acknowledged that were sent after now.
func (s *sender) more(u *upFleet, what string) {
	u.t.Helper()
	from := s.acked.Load()
	u.await("messages are acknowledged "+what, func() bool { return s.acked.Load() >= from+10 || u.t.Failed() })
}

// end looks for everything that was acknowledged.
func (s *sender) end() {
	s.t.Helper()
	s.stop()
	<-s.done
	found := map[string]int{}
	for from := ""; ; {
		page := s.call("GET", "/rooms/"+s.room+"/messages?dir=b&limit=500"+from, "")
		for _, e := range page.Get("chunk").Array() {
			found[e.Get("event_id").String()]++
		}
		next := page.Get("end").String()
		if next == "" {
			break
		}
		from = "&from=" + url.QueryEscape(next)
	}
	for n, id := range s.ids {
		if found[id] != 1 {
			s.t.Errorf("message %d of %d, acknowledged as %s, is there %d times", n, len(s.ids), id, found[id])
		}
	}
	s.t.Logf("%d messages acknowledged and found", len(s.ids))
}

// TestUpStartsItsServersAgain kills the PostgreSQL and the Redis of a living lyceum up while a client sends: both are
// started again, also after a time in which they can not, and nothing acknowledged is lost. lyceum stop, and the end of up
// itself, leave nothing behind while a server is down.
func TestUpStartsItsServersAgain(t *testing.T) {
	u := startUp(t)
	s := startSender(t, u.url)
	s.more(u, "before anything breaks")
	for _, name := range []string{"postgres", "redis"} {
		pid := u.row(name).pid
		u.kill(pid)
		u.await(name+" serves again", func() bool {
			r := u.row(name)
			return r.state == "serving" && r.pid != pid && r.restarts == "1"
		})
		s.more(u, "after the end of "+name)
		for _, line := range []string{name + " ended (signal: killed)", name + " serves again"} {
			u.await("up says: "+line, func() bool { return strings.Contains(u.said(), line) })
		}
	}

	// 6 processes serve: 90 more and 3 in reserve would need 16 connections each.
	if out, err := u.run("scale", "client=90"); err == nil ||
		!strings.Contains(out, "need 1584 connections to PostgreSQL, and it takes 1000") {
		t.Errorf("more processes than PostgreSQL has connections for: %v\n%s", err, out)
	}

	// A server that can not start is tried for ever; up says why, and ps that it is down.
	file := filepath.Join(u.data, "postgres", "data", "postgresql.auto.conf")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(good, "\nno_such_setting = 1\n"...), 0o600); err != nil { // read at the next start
		t.Fatal(err)
	}
	if err := syscall.Kill(u.row("postgres").pid, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	u.await("up says why postgres does not start", func() bool { return strings.Contains(u.said(), "no_such_setting") })
	u.await("ps shows that postgres is down", func() bool { return u.row("postgres").state == "down" })
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.more(u, "after PostgreSQL could not start for a while")
	if r := u.row("postgres"); r.state != "serving" || r.restarts != "2" {
		t.Errorf("lyceum ps shows of postgres: %+v", r)
	}
	s.end()

	u.kill(u.row("postgres").pid)
	if out, err := u.run("stop"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	u.await("nothing runs after lyceum stop", func() bool { return len(u.processes()) == 0 })

	u.start()
	up := u.parent(u.row("postgres").pid)
	u.kill(u.row("redis").pid)
	u.kill(u.row("postgres").pid)
	u.kill(up)
	u.await("nothing runs after the end of up", func() bool { return len(u.processes()) == 0 })
}

// parent is the process that started another.
func (u *upFleet) parent(pid int) int {
	u.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		u.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	parent, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		u.t.Fatal(err)
	}
	return parent
}
