package engines_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
)

// TestMain lets the test binary play the parent that dies in TestChildrenDieWithTheirParent.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ENGINES_TEST_PARENT"); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

func parent(dir string) {
	ctx := context.Background()
	pg, err := engines.StartPostgres(ctx, filepath.Join(dir, "pg"))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	redis, err := engines.StartRedis(ctx, filepath.Join(dir, "redis"))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	s3, err := engines.StartS3(ctx, filepath.Join(dir, "s3"))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(pg.Pid(), redis.Pid(), s3.Pid())
	select {}
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ENGINES_TEST_PARENT="+enginestest.Dir(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var pids [3]int
	if n, _ := fmt.Sscan(line, &pids[0], &pids[1], &pids[2]); err != nil || n != 3 {
		cmd.Process.Kill()
		t.Fatalf("the parent said %q, %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}

func TestPostgresKeepsItsDataOverRestartAndCrash(t *testing.T) {
	ctx := t.Context()
	pg, err := engines.StartPostgres(ctx, enginestest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() })
	url, err := pg.NewDatabase(ctx, `odd "name`)
	if err != nil {
		t.Fatal(err)
	}
	query(t, url, "CREATE TABLE t AS SELECT 41 AS n")
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	if pg.Pid() != 0 {
		t.Error("a killed server still has a pid")
	}
	if err := pg.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	query(t, url, "UPDATE t SET n = n + 1")
	if err := pg.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := query(t, url, "SELECT n::text FROM t"); got != "42" {
		t.Errorf("n = %s after a crash and a restart, expected 42", got)
	}
	if got := query(t, url, "SHOW fsync"); got != "on" {
		t.Errorf("fsync = %s", got)
	}
	if err := pg.DropDatabase(ctx, `odd "name`); err != nil {
		t.Error(err)
	}
}

// TestAServerThatEndedStartsAgain: whoever waits is told how it ended, Start brings it back, and nothing runs when the start
// was given up.
func TestAServerThatEndedStartsAgain(t *testing.T) {
	ctx := t.Context()
	pg, err := engines.StartPostgres(ctx, enginestest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() })
	how := make(chan error)
	go func() { how <- pg.Wait() }()
	first := pg.Pid()
	if err := pg.Start(ctx); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second start: %v", err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-how; err == nil || err.Error() != "signal: killed" {
		t.Errorf("it ended with %v", err)
	}
	if pid := pg.Pid(); pid != 0 {
		t.Errorf("a server that ended by itself has the pid %d", pid)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := pg.Start(gone); !errors.Is(err, context.Canceled) || pg.Pid() != 0 {
		t.Errorf("a start that was given up: %v, process %d", err, pg.Pid())
	}
	eventually(t, "it starts", func() bool { return pg.Start(ctx) == nil }) // not before its last session is gone
	if got := query(t, pg.URL(), "SELECT 1::text"); got != "1" || pg.Pid() == first {
		t.Errorf("answer %q of process %d", got, pg.Pid())
	}
}

func TestPostgresReopensADirectory(t *testing.T) {
	ctx, dir := t.Context(), enginestest.Dir(t)
	for range 2 {
		pg, err := engines.StartPostgres(ctx, dir, "max_connections=7")
		if err != nil {
			t.Fatal(err)
		}
		if got := query(t, pg.URL(), "SHOW max_connections"); got != "7" {
			t.Errorf("max_connections = %s, expected the setting to win", got)
		}
		if err := errors.Join(pg.Stop(), pg.Stop()); err != nil {
			t.Error(err)
		}
	}
}

func TestPostgresSaysWhichDirectoryIsClosed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root has to give the server to another user")
		return
	}
	closed := filepath.Join(enginestest.Dir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := engines.StartPostgres(t.Context(), filepath.Join(closed, "pg"))
	if err == nil || !strings.Contains(err.Error(), "chmod o+x "+closed) {
		t.Errorf("error = %v, expected the remedy", err)
	}
}

func TestFreshDatabasesAreApart(t *testing.T) {
	a, b := enginestest.TestPostgres(t), enginestest.TestPostgres(t)
	query(t, a, "CREATE TABLE t()")
	if got := query(t, b, "SELECT count(*)::text FROM pg_tables WHERE tablename = 't'"); got != "0" {
		t.Error("a table of one test's database is seen in another's")
	}
}

func TestRedisStopsAndComesBackOnItsPort(t *testing.T) {
	ctx := t.Context()
	redis, err := engines.StartRedis(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { redis.Stop() })
	addr := redis.Addr()
	if err := redis.Stop(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("a stopped server answers")
	}
	if err := redis.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if redis.Addr() != addr {
		t.Errorf("address changed from %s to %s", addr, redis.Addr())
	}
}

func TestS3KeepsItsObjectsAndKeys(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s3, err := engines.StartS3(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s3.MakeBucket(ctx, "first"); err != nil {
		t.Fatal(err)
	}
	if err := s3.Stop(); err != nil {
		t.Fatal(err)
	}
	again, err := engines.StartS3(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Stop() })
	if again.SecretKey() != s3.SecretKey() {
		t.Error("the secret key changed")
	}
	if err := again.MakeBucket(ctx, "first"); err == nil {
		t.Error("the bucket of the first run is gone")
	}
}

func TestMissingProgramNamesItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("GOPATH", "")
	t.Setenv("HOME", t.TempDir())
	t.Chdir(t.TempDir())
	_, err := engines.StartRedis(t.Context(), t.TempDir())
	if !errors.Is(err, engines.ErrNotInstalled) || !strings.Contains(err.Error(), "apt-get install redis-server") {
		t.Errorf("redis: %v", err)
	}
	_, err = engines.StartS3(t.Context(), t.TempDir())
	if !errors.Is(err, engines.ErrNotInstalled) || !strings.Contains(err.Error(), "go install github.com/versity") {
		t.Errorf("s3: %v", err)
	}
}

func TestAServerThatCanNotStartShowsItsLog(t *testing.T) {
	_, err := engines.StartRedis(t.Context(), t.TempDir(), "no-such-setting 1")
	if err == nil || !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("error = %v, expected the server's own words", err)
	}
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var text string
	for rows.Next() {
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return text
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
