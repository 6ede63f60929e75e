package fleettest_test

import (
	"strings"
	"testing"
	"time"

	"lyceum/fleettest"
)

// cuts are what a host can lose in silence: packets vanish and connections stay.
var cuts = []struct {
	name     string
	networks []string
	// How long requests at the other host may take while the host is cut: a host that only the other processes
	// can not reach keeps its shards, as the database hears from it.
	limit time.Duration
}{
	{"Redis", []string{"redis"}, 5 * time.Second},
	{"PostgreSQL", []string{"db"}, 6 * time.Second},
	{"the other host", []string{"peers"}, 0},
	{"everything", []string{"db", "redis", "peers", "front"}, 6 * time.Second},
}

// TestAHostMayBeCutOff cuts one of two hosts off for a while, in four ways.
func TestAHostMayBeCutOff(t *testing.T) {
	c := fleettest.TwoHosts(t)
	a, b := hostURLs(c, 0), hostURLs(c, 1)
	p := newProbe(t, c.Fleet, b[0], c.Network.Address("front"))
	all := append([]string{"client", "sync", "media", "push"}, stateful...)
	p.within(30*time.Second, "before", all...)
	for _, cut := range cuts {
		t.Run(strings.ReplaceAll(cut.name, " ", "_"), func(t *testing.T) {
			p := p.in(t)
			urls := append(append([]string{}, a...), b...)
			if len(cut.networks) == len(cuts) {
				urls = b // nobody reaches the other
			}
			load := burdened(t, 14*time.Second, urls, nil)
			host := c.Network.Hosts[0]
			if err := host.Cut(cut.networks...); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = host.Heal(cut.networks...) }) // a second time does nothing
			began := time.Now()
			if cut.limit > 0 {
				took := p.within(cut.limit, "a host cut from "+cut.name, all...)
				t.Logf("a host cut from %s: requests of all roles at the other host work after %d ms", cut.name, took.Milliseconds())
			}
			pause(t, 10*time.Second-time.Since(began))
			if err := host.Heal(cut.networks...); err != nil {
				t.Fatal(err)
			}
			here := p.within(8*time.Second, "after "+cut.name+" came back, at the other host", all...)
			there := p.at(a[0]).within(15*time.Second, "after "+cut.name+" came back, at the host itself", all...)
			t.Logf("a host cut from %s for 10 s, then healed: requests of all roles work after %d ms at the other host, %d ms at the host itself",
				cut.name, here.Milliseconds(), there.Milliseconds())
			load.ok("a host cut from " + cut.name)
			c.AwaitRecovery(t)
		})
	}
}

func hostURLs(c *fleettest.Crew, n int) (urls []string) {
	for _, m := range c.Members() {
		if m.Host == c.Network.Hosts[n] {
			urls = append(urls, m.URL)
		}
	}
	return urls
}

// in is the same probe for a subtest.
func (p *probe) in(t *testing.T) *probe {
	other := p.at(p.url)
	other.t = t
	return other
}
