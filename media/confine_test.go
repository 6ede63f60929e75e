package media

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestConfinement runs this test again as a process that confines itself and then tries what it may not.
func TestConfinement(t *testing.T) {
	const inside = "confined"
	if !slices.Contains(os.Args, inside) {
		if runtime.GOOS != "linux" {
			t.Skip("confinement is made for Linux")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestConfinement$", "-test.count=1", inside)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("all refused")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	parent := os.Getppid() // not to be found out afterwards
	loose := confine(order{Memory: 256 << 20, TimeoutMs: 10_000})
	if len(loose) > 0 {
		os.Stdout.WriteString("loose: " + strings.Join(loose, ", "))
		os.Exit(1)
	}
	if _, err := os.Open("/etc/passwd"); err == nil {
		os.Stdout.WriteString("a file was opened")
		os.Exit(1)
	}
	if _, err := net.Dial("udp", "127.0.0.1:9"); err == nil {
		os.Stdout.WriteString("a socket was opened")
		os.Exit(1)
	}
	if !raceDetector { // there the filter of system calls is off
		for name, err := range touchOthers(parent) {
			if !errors.Is(err, syscall.EPERM) {
				os.Stdout.WriteString(name + ": " + err.Error())
				os.Exit(1)
			}
		}
		if err := signalSelf(); err != nil { // the runtime does, to interrupt its threads
			os.Stdout.WriteString("a signal to itself: " + err.Error())
			os.Exit(1)
		}
		if err := syscall.Exec("/bin/true", []string{"true"}, nil); !errors.Is(err, syscall.EPERM) {
			os.Stdout.WriteString("exec: " + err.Error())
			os.Exit(1)
		}
	}
	os.Stdout.WriteString("all refused")
	os.Exit(0)
}

func TestAnswersAreNotBelieved(t *testing.T) {
	for _, text := range []string{
		"", "{}\n", "garbage\n", `{"type":"text/html"}` + "\n<script>", `{"type":"image/png"}` + "\n",
		`{"type":"image/gif"}` + "\nGIF", `{"failure":"other"}` + "\n", `{"type":"image/png","original":true}` + "\nx",
	} {
		if a, err := readAnswer([]byte(text)); err == nil {
			t.Errorf("%q was believed: %+v", text, a)
		}
	}
	head, err := json.Marshal(answer{Type: "image/png"})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := readAnswer(append(head, "\npicture"...)); err != nil || string(a.data) != "picture" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"a.txt": "a.txt", "../../etc/passwd": ".._.._etc_passwd", "a\r\nSet-Cookie: x": "aSet-Cookie: x", "exe.\u202egnp": "exe.gnp",
		strings.Repeat("é", 200): strings.Repeat("é", 127),
	} {
		if got := cleanName(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	for in, want := range map[string]string{
		"": unknownType, "image/png": "image/png", "x": unknownType, "text/plain; charset=utf-8": "text/plain; charset=utf-8", "a/b\r\nc: d": unknownType,
	} {
		if got := cleanType(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}
