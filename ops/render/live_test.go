package render_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"lyceum/ops/opstest"
	"lyceum/ops/up"
	"lyceum/platform/engines/enginestest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestLiveReachesARunningServer by its data directory, as other commands do: one process, and the fleet of lyceum up.
func TestLiveReachesARunningServer(t *testing.T) {
	one := opstest.NewUpSite(t).Called("one.test")
	one.MustFail(t, []string{"there is no server", "--data"}, "render", "haproxy", "--live")
	one.Process(t, one.Data)
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	fixed := opstest.NewUpSite(t, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t),
		fmt.Sprintf("LYCEUM_FLEET_INTERNAL_LISTEN=127.0.0.1:%d", port))
	fixed.Called("fixed.test").Process(t, fixed.Data)
	fleet := opstest.NewUpSite(t)
	fleet.Up(t, "--server-name", "fleet.test")
	for _, s := range []*opstest.Site{one, fixed, fleet} {
		if out := s.MustRun(t, "render", "haproxy", "--live"); !strings.Contains(out, strings.TrimPrefix(s.URL, "http://")) {
			t.Errorf("%s is not in\n%s", s.URL, out)
		}
		s.MustFail(t, []string{"--live", "--backend"}, "render", "haproxy", "--live", "--backend", "all=127.0.0.1:1")
		s.Stop()
	}
	one.MustFail(t, []string{"no process", "--backend"}, "render", "nginx", "--live")
	fleet.MustFail(t, []string{"is stopped", "lyceum up --data"}, "render", "nginx", "--live")
}
