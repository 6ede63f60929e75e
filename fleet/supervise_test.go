package fleet

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAddressIsOfTheProcessThatServes: while a new process starts, and when it does not come up, a child is at the
// address of the old one.
func TestAddressIsOfTheProcessThatServes(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	u := &Up{Config: &Config{Server: ServerConfig{Data: dir, Name: "here.test"}}, Program: program}
	if err := u.add("client", 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Children()[0].retire(context.Background()); u.wg.Wait() })
	c := u.Children()[0]
	first, old := c.State(), c.current()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	done := make(chan error)
	go func() { done <- u.Restart(ctx, c, "") }()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if err == nil {
				t.Error("a program that does not serve took the place")
			}
			ended = true
		default:
			time.Sleep(time.Millisecond)
		}
		if now := c.State(); now.Address != first.Address || now.PID != first.PID {
			t.Fatalf("%+v became %+v", first, now)
		}
	}
	if c.current() != old || u.Restart(t.Context(), c, filepath.Join(dir, "none")) == nil || c.State().Address != first.Address {
		t.Errorf("%+v became %+v", first, c.State())
	}
}
