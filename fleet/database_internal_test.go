package fleet

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// TestErrorsOfTheDataDirectoryNameTheRemedy, and the key.
func TestErrorsOfTheDataDirectoryNameTheRemedy(t *testing.T) {
	c := &Config{Server: ServerConfig{Data: "/var/lib/lyceum"}}
	for cause, want := range map[syscall.Errno]string{
		syscall.EROFS: "mount it for writing", syscall.EACCES: "chown", syscall.ENOSPC: "no space left",
	} {
		err := c.ofData(&fs.PathError{Op: "open", Path: "/var/lib/lyceum/lock", Err: cause})
		if text := err.Error(); !strings.HasPrefix(text, "server.data: ") || !strings.Contains(text, want) {
			t.Errorf("%v: %s, expected %q", cause, text, want)
		}
	}
}
