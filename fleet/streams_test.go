package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lyceum/platform/domain"
	"lyceum/platform/stream"
)

// TestNumbersOfStreamsStay holds what tokens say of streams. A client keeps its token for years, so a number is never given
// to another stream, and another number of shards is another generation.
func TestNumbersOfStreamsStay(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "streams.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{} // by number
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		number, _, _ := strings.Cut(line, " ")
		if lines[number] != "" {
			t.Errorf("number %s is there twice", number)
		}
		lines[number] = line
	}
	for _, st := range Collect(func(d domain.Domain) []stream.Spec { return d.Streams }) {
		number := fmt.Sprint(st.Number)
		want := fmt.Sprintf("%s %s, generation %d, %d shards", number, st.Name, st.Generation, st.Shards)
		switch have := lines[number]; {
		case st.Number <= 0 || st.Number > stream.MaxNumber:
			t.Errorf("stream %s has the number %d: expected one from 1 to %d that is not in fleet/testdata/streams.txt, and a line there", st.Name,
				st.Number, stream.MaxNumber)
		case have == "":
			t.Errorf("expected the line %q in fleet/testdata/streams.txt", want)
		case have != want:
			t.Errorf("fleet/testdata/streams.txt says %q and the program %q: a number keeps its stream, "+
				"and a change of the number of shards is the next generation (design/016)", have, want)
		}
		delete(lines, number)
	}
	for _, line := range lines {
		if !strings.HasSuffix(line, ", retired") {
			t.Errorf("no stream has the line %q of fleet/testdata/streams.txt: when it was removed, keep the line and end it with \", retired\"",
				line)
		}
	}
}
