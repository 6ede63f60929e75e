package render_test

import (
	"os"
	"strings"
	"testing"

	"lyceum/ops/opstest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestLiveReachesARunningServer by its data directory, as other commands do: one process, and the fleet of lyceum up.
func TestLiveReachesARunningServer(t *testing.T) {
	one := opstest.NewUpSite(t).Called("one.test")
	one.MustFail(t, []string{"there is no server", "--data"}, "render", "haproxy", "--live")
	one.Process(t, one.Data)
	fleet := opstest.NewUpSite(t)
	fleet.Up(t, "--server-name", "fleet.test")
	for _, s := range []*opstest.Site{one, fleet} {
		if out := s.MustRun(t, "render", "haproxy", "--live"); !strings.Contains(out, strings.TrimPrefix(s.URL, "http://")) {
			t.Errorf("%s is not in\n%s", s.URL, out)
		}
		s.MustFail(t, []string{"--live", "--backend"}, "render", "haproxy", "--live", "--backend", "all=127.0.0.1:1")
		s.Stop()
	}
	one.MustFail(t, []string{"no process", "--backend"}, "render", "nginx", "--live")
	fleet.MustFail(t, []string{"is stopped", "lyceum up --data"}, "render", "nginx", "--live")
}
