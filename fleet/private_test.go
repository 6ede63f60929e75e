package fleet_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lyceum/ops/opstest"
)

// TestSecretsThatOthersCanReadAreSaid at the start and by the doctor, whichever file they are in; an empty directory that was made
// beforehand is taken from others.
func TestSecretsThatOthersCanReadAreSaid(t *testing.T) {
	s := opstest.NewUpSite(t).Called("private.test")
	if err := os.Mkdir(s.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	shared, config := filepath.Join(t.TempDir(), "shared"), filepath.Join(t.TempDir(), "lyceum.yaml")
	err := errors.Join(os.WriteFile(shared, []byte("a shared secret of many letters"), 0o600),
		os.WriteFile(config, []byte("redis:\n  password: a password in the file\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	s.Environ = append(s.Environ, "LYCEUM_ACCOUNTS_SHARED_SECRET_FILE="+shared)
	if log := s.ServeFor(t, "--config", config); strings.Contains(log, "others may") {
		t.Errorf("nothing is open: %s", log)
	}
	if info, err := os.Stat(s.Data); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v %v", info.Mode(), err)
	}
	secret := filepath.Join(s.Data, "secret")
	if err := errors.Join(os.Chmod(shared, 0o644), os.Chmod(config, 0o644), os.Chmod(secret, 0o644), os.Chmod(s.Data, 0o755)); err != nil {
		t.Fatal(err)
	}
	log := s.ServeFor(t, "--config", config)
	found, _ := s.Run(t, "doctor", "--interval", "10ms", "--config", config)
	for _, file := range []string{shared, config, secret} {
		if !strings.Contains(log, "chmod o= "+file) {
			t.Errorf("the start does not tell of %s:\n%s", file, log)
		}
		if !strings.Contains(found, "chmod o= "+file) {
			t.Errorf("the doctor does not tell of %s:\n%s", file, found)
		}
	}
	for _, text := range []string{log, found} {
		if !strings.Contains(text, "chmod 700 "+s.Data) {
			t.Errorf("the directory is not told of:\n%s", text)
		}
	}
}
