package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"lyceum/ops/opstest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestCommandsSayWhereAMistakeIs: nothing is said or made before, and only how a command is written has the usage beside it.
func TestCommandsSayWhereAMistakeIs(t *testing.T) {
	for _, c := range []struct{ variable, want, args string }{
		{"MACHINE_ID=abc", "environment MACHINE_ID: fleet.machine_id", "serve"},
		{"MACHINE_ID=3", "lyceum up gives each process an id of its own", "up"},
		{"LYCEUM_FLEET_MACHINE_ID=abc", "environment LYCEUM_FLEET_MACHINE_ID: fleet.machine_id", "up"},
		{"", "lyceum up gives each process an id of its own", "up --machine-id 3"},
		{"", "up.replicas: no process has", "up --set up.replicas=events=1"},
		{"", "up.replicas: no process has", "up --detach --set up.replicas=events=1"},
		{"", "no such file", "rollout no-such-file"},
	} {
		s := opstest.NewSite(t, "sqlite")
		s.Environ = append(s.Environ, c.variable)
		out, err := s.Run(t, strings.Fields(c.args)...)
		exit, _ := errors.AsType[*exec.ExitError](err)
		if exit == nil || exit.ExitCode() != 1 || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s lyceum %s: expected one line with %q, found %v\n%s", c.variable, c.args, c.want, err, out)
		}
		opstest.NotCreated(t, s.Data)
	}
}

// TestAWrongCommandLineIsSaidInOneLine, with where its help is; and how the server ends is in its log.
func TestAWrongCommandLineIsSaidInOneLine(t *testing.T) {
	s := opstest.NewUpSite(t).Called("lines.test")
	for line, want := range map[string]string{
		"serve --datta x":       "lyceum: unknown flag --datta, did you mean \"--data\"?: see lyceum serve --help\n",
		"user":                  "see lyceum user --help\n",
		"user list --roles all": "lyceum: unknown flag --roles: see lyceum user list --help\n",
		"doctor --machine-id 3": "see lyceum doctor --help\n",
		"token new --uses -3":   "lyceum: --uses: expected a number of 0 or more, found -3: see lyceum token new --help\n",
		"user add --bar x":      "lyceum: unknown flag --bar: see lyceum user add --help\n",
	} {
		if out, err := s.Run(t, strings.Fields(line)...); err == nil || !strings.HasSuffix(out, want) || strings.Count(out, "\n") != 1 {
			t.Errorf("lyceum %s: %v %q, expected %q", line, err, out, want)
		}
	}
	for _, args := range [][]string{{"help"}, {"help", "token", "new"}, {"help", "plan"}} {
		if out := s.MustRun(t, args...); !strings.Contains(out, "Usage: "+strings.Join(append([]string{"lyceum"}, args[1:]...), " ")) ||
			strings.Contains(out, "FLOAT") || strings.Contains(out, "=INT") {
			t.Errorf("lyceum %v: %s", args, out)
		}
	}
	if out := s.MustRun(t, "--version"); !strings.HasPrefix(out, "lyceum ") {
		t.Errorf("version: %s", out)
	}
	cmd := s.Process(t, s.Data)
	s.Stop()
	if text := fmt.Sprint(cmd.Stderr); !strings.Contains(text, "stopping: SIGTERM") {
		t.Errorf("the log of a process that got SIGTERM:\n%s", text)
	}
}

// TestAVariableWithoutAKeyIsTold, and does not make a server beside the one that was meant.
func TestAVariableWithoutAKeyIsTold(t *testing.T) {
	s := opstest.NewUpSite(t, "LYCEUM_DATABASE=postgres://me:geheim@db.test/x")
	s.MustFail(t, []string{"LYCEUM_DATABASE", "LYCEUM_DATABASE_URL"}, "serve")
	opstest.NotCreated(t, s.Data)
}
