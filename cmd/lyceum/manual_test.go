package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var (
	// shown is a command in the text, or a line of an example.
	shown = regexp.MustCompile("`([^`\n]*lyceum [^`\n]*)`|(?m)^(?:    )?([^`\n]*lyceum [^`\n]*)$")
	// command is what of it the program reads: behind variables and sudo, before another program or a remark.
	command = regexp.MustCompile(`^(?:\$ )?(?:[A-Z_]+=\S* )*(?:sudo (?:-u \S+ )?)?(?:\S*/)?lyceum ([^|>&;#]*)`)
)

// TestCommandsOfTheManual: what the manual and the README show with flags is a command of this program.
func TestCommandsOfTheManual(t *testing.T) {
	files, err := filepath.Glob("../../manual/*.md")
	if err != nil {
		t.Fatal(err)
	}
	parsed := 0
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range shown.FindAllStringSubmatch(string(text), -1) {
			found := command.FindStringSubmatch(m[1] + m[2])
			if found == nil || !strings.Contains(found[1], " --") || strings.ContainsAny(found[1], "…[") || strings.Contains(found[1], " --help") {
				continue
			}
			parsed++
			parser, err := kong.New(&cli{}, kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard))
			if err != nil {
				t.Fatal(err)
			}
			// the reader has the files
			if _, err := parser.Parse(strings.Fields(strings.ReplaceAll(found[1], "'", ""))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: lyceum %s: %v", filepath.Base(file), found[1], err)
			}
		}
	}
	if parsed < 20 {
		t.Errorf("only %d commands were found", parsed)
	}
}
