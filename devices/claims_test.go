package devices

import (
	"fmt"
	"testing"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
)

// behind gives a process its own way to a database, which can break.
func behind(t *testing.T, url string) (*dbfault.Proxy, *db.DB) {
	t.Helper()
	proxy, err := dbfault.NewProxy(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	d, err := db.Open(t.Context(), proxy.URL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return proxy, d
}

// The claim is stored, its answer is lost, and its owner is away for so long that another process takes the shard: the claim comes
// again, to the new owner.
func TestAClaimWhoseAnswerIsLostTakesOneKey(t *testing.T) {
	for _, fault := range []dbfault.Fault{dbfault.Before, dbfault.After} {
		t.Run(fault.String(), func(t *testing.T) {
			url := enginestest.TestPostgres(t)
			dbtest.Open(t, url, allMigrations...)
			proxy, d := behind(t, url)
			_, other := behind(t, url)
			b := bus.NewLocal()
			member := func(p *role.Process) *node { return wire(t, p) }
			one, _ := roletest.Join(t, d, b, -1, member)
			two, _ := roletest.Join(t, other, b, -1, member)
			t.Cleanup(proxy.Open) // before they stop, which waits for their commits
			roletest.Until(t, "both processes own shards", func() bool { return even(one, two) })
			bob := one.register("bob")
			var alice *login
			for i := 0; alice == nil || !one.toDevice.Owns(one.toDevice.Shard(alice.userID)); i++ {
				alice = one.register(fmt.Sprint("alice", i))
			}
			alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("A", "B", "C"), "fallback_keys": alice.oneTimeKeys("F")}).want(200)
			shard := one.toDevice.Shard(alice.userID)

			proxy.Shut()
			claimed := make(chan answer, 1)
			go func() {
				claimed <- bob.do("POST /keys/claim", obj{"one_time_keys": obj{alice.userID: obj{alice.deviceID: mainAlgorithm}}})
			}()
			decide := func() (some bool) { // other streams commit too
				for _, held := range proxy.Held() {
					held.Decide(fault)
					some = true
				}
				return some
			}
			roletest.Until(t, "a commit comes", decide)
			if fault == dbfault.After {
				roletest.Until(t, "the claim is stored", func() bool {
					decide()
					return two.number(`SELECT COUNT(*) FROM one_time_keys`) == 2
				})
			}
			proxy.Away(true)
			proxy.Open()
			roletest.Until(t, "another process takes the shard", func() bool { return two.toDevice.Owns(shard) })
			proxy.Away(false)
			got := (<-claimed).want(200).get("one_time_keys")
			if key := got.Get("*.*").Raw; len(got.Map()) != 1 || key == "" {
				t.Errorf("the claim got %s", got.Raw)
			}
			if left := two.number(`SELECT COUNT(*) FROM one_time_keys`); left != 2 {
				t.Errorf("one claim of three keys, and %d are left", left)
			}
		})
	}
}

func even(nodes ...*node) bool {
	for _, n := range nodes {
		owned := 0
		for i := range n.toDevice.Shards() {
			if n.toDevice.Owns(i) {
				owned++
			}
		}
		if owned != n.toDevice.Shards()/len(nodes) {
			return false
		}
	}
	return true
}

func TestARepeatedClaimGetsTheSameKeys(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, carol := n.register("alice"), n.register("carol")
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("A"), "fallback_keys": alice.oneTimeKeys("F")}).want(200)
		carol.do("POST /keys/upload", obj{"fallback_keys": carol.oneTimeKeys("F")}).want(200)
		claims := []Claim{{alice.userID, alice.deviceID, mainAlgorithm}, {carol.userID, carol.deviceID, mainAlgorithm}}
		many := append([]Claim{}, claims...)
		for i := range 2 * claimsAtOnce {
			many = append(
				many,
				Claim{alice.userID, fmt.Sprint("NOBODY", i), mainAlgorithm},
				Claim{carol.userID, fmt.Sprint("NOBODY", i), mainAlgorithm},
			)
		}
		claim := func(id string, claims []Claim) map[string]string {
			t.Helper()
			got, err := n.ClaimKeys(t.Context(), id, claims)
			if err != nil {
				t.Fatal(err)
			}
			keys := map[string]string{}
			for _, k := range got {
				keys[k.UserID] = k.KeyID
			}
			return keys
		}
		want := func(step string, got map[string]string, ofAlice, ofCarol string) {
			t.Helper()
			if got[alice.userID] != ofAlice || got[carol.userID] != ofCarol {
				t.Errorf("%s: expected the keys %q and %q, found %v", step, ofAlice, ofCarol, got)
			}
		}
		want("first", claim("1", claims), "A", "F")
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("B")}).want(200)
		carol.do("POST /keys/upload", obj{"one_time_keys": carol.oneTimeKeys("B")}).want(200)
		want("again", claim("1", claims), "A", "F")
		if got := n.number(`SELECT COUNT(*) FROM one_time_keys`); got != 2 {
			t.Errorf("a repetition left %d keys of 2", got)
		}
		want("another", claim("2", claims), "B", "B")
		want("the first once more", claim("1", many), "A", "F")
		want("without an id, as of the version before", claim("", claims), "F", "F")
		n.exec(`DELETE FROM fallback_keys`)
		want("where no keys are left", claim("2", many), "B", "B")
		roletest.AtOnce(2, func(int) {
			if _, err := n.ClaimKeys(t.Context(), "3", claims); err != nil {
				t.Error(err)
			}
		})
		want("where none were", claim("3", claims), "", "")
		// Two of one id in one write.
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("C", "D")}).want(200)
		one, two := &claimOperation{claimRequest: claimRequest{claims[0], "4"}}, &claimOperation{claimRequest: claimRequest{claims[0], "4"}}
		if err := n.p.Streams.Append(t.Context(), n.entry(alice.userID, alice.deviceID, one), n.entry(alice.userID, alice.deviceID,
			two)); err != nil {
			t.Fatal(err)
		}
		if one.got == nil || two.got == nil || *one.got != *two.got {
			t.Errorf("one claim, twice in a write, got %v and %v", one.got, two.got)
		}
		if got := n.number(`SELECT COUNT(*) FROM claimed_keys`); got != 5 {
			t.Errorf("%d keys are known as given out, expected 5", got)
		}
		alice.do("POST /logout", nil).want(200)
		if got := n.number(`SELECT COUNT(*) FROM claimed_keys WHERE user_id = $1`, alice.userID); got != 0 {
			t.Errorf("%d claims outlive the device", got)
		}
		want("of a device that is gone", claim("4", claims[:1]), "", "")
	})
}
