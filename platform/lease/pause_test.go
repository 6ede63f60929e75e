package lease_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// TestMain lets the test binary play the process that is paused.
func TestMain(m *testing.M) {
	if url := os.Getenv("LEASE_TEST_WRITER"); url != "" {
		if err := writeForEver(url); err != nil {
			fmt.Println("end", err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var numbers = db.Migrations{Domain: "test", Files: fstest.MapFS{"migrations/0001_numbers.sql": {
	Data: []byte("CREATE TABLE numbers (pos BIGINT NOT NULL PRIMARY KEY, writer TEXT NOT NULL, epoch BIGINT NOT NULL);"),
}}}

// An answer that gets lost, on a connection that stays, holds up nobody: what it said is asked again.
func TestALostAnswerIsNotWaitedFor(t *testing.T) {
	url := enginestest.TestPostgres(t)
	dbtest.Open(t, url, lease.Migrations())
	for name, call := range map[string]func(l *lease.Leases) error{
		"take":      func(l *lease.Leases) error { _, err := l.Acquire(context.Background(), "a"); return err },
		"give back": func(l *lease.Leases) error { return l.Release(context.Background(), "a") },
		"renew":     func(l *lease.Leases) error { _, err := l.Renew(context.Background(), "a"); return err },
		"tell":      func(l *lease.Leases) error { return l.SetDegraded(context.Background(), true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, err := dbfault.NewProxy(url)
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			l, err := lease.Open(t.Context(), dbtest.Open(t, proxy.URL()), lease.Options{Machine: -1, Roles: []string{"all"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.WaitUntilKnown(t.Context()); err != nil {
				t.Fatal(err)
			}
			proxy.Freeze() // also the connection that is there
			defer proxy.Thaw()
			ended := make(chan error, 1)
			go func() { ended <- call(l) }()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("there was an answer")
				}
			case <-time.After(30 * time.Second):
				t.Error("it waits for an answer that does not come")
			}
		})
	}
}

// writer appends numbered rows under the lease "log", as the owner of a shard does.
type writer struct {
	d    *db.DB
	l    *lease.Leases
	mark lease.Lease
	name string
}

func (w *writer) write(ctx context.Context) error {
	next := w.mark
	next.Pos++
	err := w.d.Write(ctx, func(b *db.Batch) error {
		w.l.Advance(b, []lease.Lease{next})
		b.Do("INSERT INTO numbers (pos, writer, epoch) VALUES ($1, $2, $3)", next.Pos, w.name, next.Epoch)
		return nil
	})
	if err == nil {
		w.mark = next
	}
	return err
}

func begin(ctx context.Context, url, name string, machine int) (*writer, error) {
	d, err := db.Open(ctx, url, db.Options{})
	if err != nil {
		return nil, err
	}
	l, err := lease.Open(ctx, d, lease.Options{Machine: machine})
	if err != nil {
		return nil, err
	}
	go func() {
		if err := l.Run(ctx); err != nil {
			fmt.Println("registration", err)
		}
	}()
	return &writer{d: d, l: l, name: name}, nil
}

func (w *writer) take(ctx context.Context) error {
	for {
		got, err := w.l.Acquire(ctx, "log")
		if err != nil {
			return err
		}
		if len(got) == 1 {
			w.mark = got[0]
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// writeForEver is the child: it writes until it loses the lease, and tries ten times more.
func writeForEver(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := begin(ctx, url, "child", 0)
	if err != nil {
		return err
	}
	if err := w.take(ctx); err != nil {
		return err
	}
	for tries := 0; tries < 10; {
		err := w.write(ctx)
		switch {
		case err == nil:
			fmt.Println("wrote", w.mark.Pos)
		case errors.Is(err, lease.ErrLost):
			fmt.Println("lost")
			tries++
		default: // the database ended the session of a process that was paused in a transaction
			fmt.Println("error", err)
		}
	}
	return errors.New("as expected")
}

func TestAStoppedProcessCanNotWriteAfterATakeover(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, lease.Migrations(), numbers)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "LEASE_TEST_WRITER="+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for n := 0; n < 20 && lines.Scan(); n++ { // it writes
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	w, err := begin(ctx, url, "parent", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.d.Close() })
	if err := w.take(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(stopped); took > 8*time.Second {
		t.Errorf("the takeover took %s", took)
	}
	for range 50 {
		if err := w.write(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for lines.Scan() {
		if lines.Text() == "lost" {
			lost++
		}
		if err := w.write(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if lost == 0 {
		t.Error("the child did not notice that it lost its lease")
	}
	rows, err := d.Query(ctx, "SELECT pos, writer, epoch FROM numbers ORDER BY pos")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	last, lastEpoch := int64(0), int64(0)
	for rows.Next() {
		var pos, epoch int64
		var name string
		if err := rows.Scan(&pos, &name, &epoch); err != nil {
			t.Fatal(err)
		}
		if pos != last+1 || epoch < lastEpoch || (name == "child") != (epoch == 1) {
			t.Fatalf("row %d of %s in epoch %d follows row %d in epoch %d", pos, name, epoch, last, lastEpoch)
		}
		last, lastEpoch = pos, epoch
	}
	if err := rows.Err(); err != nil || last != w.mark.Pos || lastEpoch != w.mark.Epoch {
		t.Errorf("the last row is %d in epoch %d, expected %+v, %v", last, lastEpoch, w.mark, err)
	}
}
