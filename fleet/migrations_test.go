package fleet

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStepsOfTheSchemaStay: a database notes how many steps of each domain it has. A step that was renamed, moved or changed
// is done again by some databases and never by others.
func TestStepsOfTheSchemaStay(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "migrations.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{} // by domain and file
	for line := range strings.Lines(string(text)) {
		if name, sum, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			lines[name] = sum
		}
	}
	for _, set := range Migrations() {
		files, err := fs.Glob(set.Files, "migrations/*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			sql, err := fs.ReadFile(set.Files, file)
			if err != nil {
				t.Fatal(err)
			}
			name := set.Domain + "/" + filepath.Base(file)
			sum := fmt.Sprintf("%.12x", sha256.Sum256(sql))
			switch have := lines[name]; {
			case have == "":
				t.Errorf("expected the line %q in fleet/testdata/migrations.txt: a new step is the last of its domain", name+" "+sum)
			case have != sum:
				t.Errorf("%s was changed: databases that have it will not get the change; make it a new step", name)
			}
			delete(lines, name)
		}
	}
	for name := range lines {
		t.Errorf("%s is gone: databases count it, and the steps after it would be missed", name)
	}
}
