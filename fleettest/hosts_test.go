package fleettest_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"lyceum/fleettest"
)

// cuts are what a host can lose in silence: packets vanish and connections stay.
var cuts = []struct {
	name     string
	networks []string
	// How long requests at the other host may take while the host is cut; 0: until it is healed. A host that only the
	// other processes can not reach keeps its shards, as the database hears from it.
	limit time.Duration
}{
	{"Redis", []string{"redis"}, 5 * time.Second},
	{"PostgreSQL", []string{"db"}, 8 * time.Second},
	{"the other host", []string{"peers"}, 0},
	{"all but its clients", []string{"db", "redis", "peers"}, 8 * time.Second},
}

// TestAHostMayBeCutOff cuts one of two hosts off, in four ways, for 10 s each.
func TestAHostMayBeCutOff(t *testing.T) {
	c := fleettest.TwoHosts(t)
	a, b := hostURLs(c, 0), hostURLs(c, 1)
	p := newProbe(t, c.Fleet, b[0], c.Network.Address("front"))
	all := append([]string{"client", "sync", "media", "push"}, stateful...)
	p.within(30*time.Second, "before", all...)
	load := burdened(t, time.Duration(len(cuts))*12*time.Second, slices.Concat(a, b), nil)
	host := c.Network.Hosts[0]
	for _, cut := range cuts {
		if err := host.Cut(cut.networks...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = host.Heal(cut.networks...) }) // a second time does nothing
		began := time.Now()
		while := "not asked"
		if cut.limit > 0 {
			while = fmt.Sprintf("%d ms", p.within(cut.limit, "a host cut from "+cut.name, all...).Milliseconds())
		}
		pause(t, 10*time.Second-time.Since(began))
		if err := host.Heal(cut.networks...); err != nil {
			t.Fatal(err)
		}
		here := p.within(8*time.Second, "after "+cut.name+" came back, at the other host", all...)
		there := p.at(a[0]).within(15*time.Second, "after "+cut.name+" came back, at the host itself", all...)
		t.Logf(
			"a host cut from %s for 10 s: all roles work at the other host after %s; once healed, there after %d ms and at the host itself "+
				"after %d ms more",
			cut.name,
			while,
			here.Milliseconds(),
			there.Milliseconds(),
		)
	}
	load.ok("a host cut off in four ways")
	c.AwaitRecovery(t)
}

func hostURLs(c *fleettest.Crew, n int) (urls []string) {
	for _, m := range c.Members() {
		if m.Host == c.Network.Hosts[n] {
			urls = append(urls, m.URL)
		}
	}
	return urls
}
