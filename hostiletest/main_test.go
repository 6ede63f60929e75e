package hostiletest_test

import (
	"os"
	"strings"
	"testing"

	"lyceum/fleettest"
	"lyceum/platform/engines/enginestest"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// secret is what the administrator of the tests is made with.
const secret = "a secret of the tests"

// engines are the databases that a test runs over.
var engines = []string{"sqlite", "postgres"}

// start gives a process over a database.
func start(t *testing.T, engine string, environ ...string) *fleettest.Alone {
	t.Helper()
	url := ""
	if engine == "postgres" {
		url = enginestest.TestPostgres(t)
	}
	return fleettest.StartAlone(t, url, append([]string{"LYCEUM_ACCOUNTS_SHARED_SECRET=" + secret}, environ...)...)
}

// route is a row of manual/routes.md.
type route struct{ method, path, auth, limit string }

func (r route) String() string { return r.method + " " + r.path }

// routes reads the table of all routes.
func routes(t *testing.T) []route {
	t.Helper()
	page, err := os.ReadFile("../manual/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []route
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || !strings.Contains(cells[2], "`/") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `\n")
		}
		out = append(out, route{cells[1], cells[2], cells[3], cells[6]})
	}
	if len(out) < 100 {
		t.Fatalf("manual/routes.md has %d routes; has its form changed?", len(out))
	}
	return out
}
