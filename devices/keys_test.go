package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
)

func TestKeysAreUploadedQueriedAndClaimed(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		x := alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A", "B")}).want(200)
		if x.get("one_time_key_counts.signed_curve25519").Int() != 2 {
			t.Fatalf("counts: %s", x.body)
		}
		alice.do("PUT /devices/"+alice.deviceID, obj{"display_name": "Phone"}).want(200)
		x = bob.do("POST /keys/query", obj{"device_keys": obj{alice.userID: []string{}, bob.userID: []string{}, "@x:else.where": []string{}}}).
			want(200)
		device := x.get("device_keys").Get(`@alice\:here\.test`).Get(alice.deviceID)
		if device.Get("unsigned.device_display_name").String() != "Phone" || !device.Get("signatures").Exists() {
			t.Errorf("device: %s", device)
		}
		if v := x.get("device_keys").Get(`@bob\:here\.test`); v.Raw != "{}" {
			t.Errorf("a user without keys: %s", v.Raw)
		}
		if x.get("failures").Raw != "{}" || x.get("device_keys.@x:else\\.where").Exists() {
			t.Errorf("users of other servers: %s", x.body)
		}
		x = bob.do("POST /keys/query", obj{"device_keys": obj{alice.userID: []string{"NOPE"}}}).want(200)
		if x.get("device_keys").Get(`@alice\:here\.test`).Raw != "{}" {
			t.Errorf("another device: %s", x.body)
		}

		first, second, none := bob.claimFrom(alice), bob.claimFrom(alice), bob.claimFrom(alice)
		if !first.Get(`signed_curve25519\:A.key`).Exists() || !second.Get(`signed_curve25519\:B.key`).Exists() || none.Exists() {
			t.Errorf("claims: %s, %s, %s", first, second, none)
		}
		if count, _ := alice.counts(); count != 0 {
			t.Errorf("after the claims %d keys are left", count)
		}

		alice.do("POST /keys/upload", obj{"fallback_keys": alice.oneTimeKeys("F")}).want(200)
		if _, fallback := alice.counts(); !slices.Equal(fallback, []string{mainAlgorithm}) {
			t.Errorf("unused fallback keys: %v", fallback)
		}
		for range 2 {
			if k := bob.claimFrom(alice); !k.Get(`signed_curve25519\:F.key`).Exists() {
				t.Errorf("fallback: %s", k)
			}
		}
		if _, fallback := alice.counts(); len(fallback) != 0 {
			t.Errorf("a used fallback key is told as unused: %v", fallback)
		}
		alice.do("POST /keys/upload", obj{"fallback_keys": alice.oneTimeKeys("F")}).want(200)
		if _, fallback := alice.counts(); len(fallback) != 0 {
			t.Error("a repeated upload made a used fallback key unused")
		}
		alice.do("POST /keys/upload", obj{"fallback_keys": alice.oneTimeKeys("G")}).want(200)
		if _, fallback := alice.counts(); len(fallback) != 1 {
			t.Error("a new fallback key is not told")
		}
	})
}

func TestUploadsAreChecked(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("A")}).want(200)
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("A", "B")}).want(200) // a repetition
		x := alice.do(
			"POST /keys/upload",
			obj{"one_time_keys": obj{"signed_curve25519:A": alice.oneTimeKey("other"), "signed_curve25519:C": alice.oneTimeKey("c")}},
		)
		x.want(400, "M_UNKNOWN")
		if count, _ := alice.counts(); count != 2 {
			t.Errorf("a refused upload left %d keys", count)
		}
		alice.do("POST /keys/upload", obj{"device_keys": bob.deviceKeys()}).want(400, "M_INVALID_PARAM")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeysWith(obj{"device_id": "OTHER"})}).want(400, "M_INVALID_PARAM")
		for _, bad := range []string{`{"one_time_keys":{"nocolon":{"key":"x"}}}`, `{"one_time_keys":{"a:\u0000":{"key":"x"}}}`} {
			alice.do("POST /keys/upload", bad).want(400, "M_INVALID_PARAM")
		}
		for _, bad := range []string{
			`{"one_time_keys":{"signed_curve25519:x":"text"}}`, `{"one_time_keys":{"a:b":7}}`, `{"device_keys":[]}`,
			`{"one_time_keys":[]}`,
		} {
			alice.do("POST /keys/upload", bad).want(400, "M_BAD_JSON")
		}
		alice.do("POST /keys/query", "{}").want(400, "M_MISSING_PARAM")
		alice.do("POST /keys/claim", "{}").want(400, "M_MISSING_PARAM")
		if got := bob.do("POST /keys/claim", obj{"one_time_keys": obj{"bad\x00": obj{"\x00": "\x00"}}}).want(200); got.get(
			"one_time_keys",
		).Raw != "{}" {
			t.Errorf("%s", got.body)
		}
	})
}

// TestSignaturesAreForOthersToCheck: keys are stored with whatever signatures they have, and stay readable and signable.
func TestSignaturesAreForOthersToCheck(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		unsigned := func(fields obj) obj {
			keys := obj{
				"user_id": alice.userID, "device_id": alice.deviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
				"keys": obj{"ed25519:" + alice.deviceID: "not base64!"},
			}
			maps.Copy(keys, fields)
			return keys
		}
		for name, signatures := range map[string]any{
			"none": nil, "an empty object": obj{}, "of a key of others": obj{bob.userID: obj{"ed25519:X": "abc"}},
			"wrong": obj{alice.userID: obj{"ed25519:" + alice.deviceID: "abc"}}, "no object below": obj{alice.userID: 7},
		} {
			fields := obj{"org.example.name": name}
			if signatures != nil {
				fields["signatures"] = signatures
			}
			alice.do("POST /keys/upload", obj{"device_keys": unsigned(fields)}).want(200)
			got := at(bob.query(alice), "device_keys", alice.userID, alice.deviceID)
			if got.Get(`org\.example\.name`).String() != name || got.Get("signatures").Exists() != (signatures != nil) {
				t.Errorf("%s: found %s", name, got)
			}
		}
		alices := alice.newIdentity()
		alice.do("POST /keys/device_signing/upload", alices.body).want(200)
		signed := sign(t, unsigned(obj{"org.example.name": "signed"}), alice.userID, public(alices.self), alices.self)
		alice.do("POST /keys/upload", obj{"device_keys": unsigned(obj{"org.example.name": "signed"})}).want(200)
		alice.do("POST /keys/signatures/upload", obj{alice.userID: obj{alice.deviceID: signed}}).want(200)
		got := at(bob.query(alice), "device_keys", alice.userID, alice.deviceID)
		if !at(got, "signatures", alice.userID, "ed25519:"+public(alices.self)).Exists() {
			t.Errorf("found %s", got)
		}
		alice.do("POST /keys/upload", obj{"device_keys": unsigned(obj{"signatures": 7})}).want(400, "M_BAD_JSON")
		alice.do("POST /keys/upload", obj{"device_keys": unsigned(obj{"user_id": bob.userID})}).want(400, "M_INVALID_PARAM")
	})
}

// TestDevicesHaveEachMember: clients refuse an answer in which a member is missing.
func TestDevicesHaveEachMember(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		one := alice.do("GET /devices/"+alice.deviceID, nil).want(200).get("@this")
		all := alice.do("GET /devices", nil).want(200).get("devices.0")
		for _, d := range []gjson.Result{one, all} {
			for _, member := range []string{"device_id", "display_name", "last_seen_ip", "last_seen_ts"} {
				if v := d.Get(member); !v.Exists() || v.Raw == `""` || v.Raw == "0" {
					t.Errorf("%s: found %s", member, d)
				}
			}
		}
	})
}

func TestChangedIdentityDropsItsKeys(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}).want(200)
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys()}).want(200)
		if count, _ := alice.counts(); count != 1 {
			t.Errorf("the same identity again left %d keys", count)
		}
		alice.key = n.login("alice").key
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys()}).want(200)
		if count, _ := alice.counts(); count != 0 {
			t.Errorf("a new identity kept %d keys of the old one", count)
		}
	})
}

// TestKeysStayWithTheirIdentity: only other identity keys end the one-time keys, and the answer counts what is left, wherever it is asked.
func TestKeysStayWithTheirIdentity(t *testing.T) {
	fleet(t, func(t *testing.T, one, two *node) {
		for _, name := range []string{"alice", "bob", "carol", "dave"} { // of both owners
			for _, at := range []*node{one, two} {
				u := at.register(name + map[*node]string{one: "1", two: "2"}[at])
				u.do("POST /keys/upload", obj{
					"device_keys": u.deviceKeys(), "one_time_keys": u.oneTimeKeys("A", "B"),
					"fallback_keys": u.oneTimeKeys("F"),
				}).
					want(200)
				u.do("PUT /sendToDevice/test.x/1", obj{"messages": obj{u.userID: obj{u.deviceID: obj{}}}}).want(200)
				u.counts()
				changed := map[string]obj{
					"algorithms": {"algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"}},
					"more":       {"org.example.more": "of it"},
					"unsigned":   {"unsigned": obj{"x": "y"}},
				}
				for what, fields := range changed {
					x := u.do("POST /keys/upload", obj{"device_keys": u.deviceKeysWith(fields)}).want(200)
					if n := x.get("one_time_key_counts.signed_curve25519").Int(); n != 2 {
						t.Errorf("%s of the device keys changed: %d one-time keys in the answer", what, n)
					}
					count, fallback := u.counts()
					if messages, _ := u.inbox(0); count != 2 || len(fallback) != 1 || len(messages) != 1 {
						t.Errorf(
							"%s of the device keys changed: left are %d one-time keys, fallback keys %v and %d messages", what, count, fallback,
							len(messages),
						)
					}
				}
				u.do("POST /keys/upload", obj{"one_time_keys": u.oneTimeKeys("A")}).want(200) // known, so not fresh
				if count, _ := u.counts(); count != 2 {
					t.Errorf("a key that is known makes %d of 2", count)
				}
				x := u.do("POST /keys/upload", obj{"device_keys": u.deviceKeysWith(obj{"keys": obj{
					"ed25519:" + u.deviceID:    public(u.key),
					"curve25519:" + u.deviceID: "another",
				}})}).
					want(200)
				if n := x.get("one_time_key_counts.signed_curve25519").Int(); n != 0 {
					t.Errorf("a new identity: %d one-time keys in the answer", n)
				}
				u.key = at.login(name + map[*node]string{one: "1", two: "2"}[at]).key
				x = u.do("POST /keys/upload", obj{"device_keys": u.deviceKeys(), "one_time_keys": u.oneTimeKeys("A")}).want(200)
				if n := x.get("one_time_key_counts.signed_curve25519").Int(); n != 1 {
					t.Errorf("a new identity with one key: %d one-time keys in the answer", n)
				}
			}
		}
	})
}

// TestNewIdentityIsCountedBeforeItIsHeard: what this process remembers may be older than what another did for the request.
func TestNewIdentityIsCountedBeforeItIsHeard(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}).want(200)
		alice.counts()
		cleanUp, k := n.cleanUp, deviceKey{alice.userID, alice.deviceID}
		n.cleanUp = func(ctx context.Context, userID string, g deviceCleanup) (cleanupResult, error) {
			res, err := cleanUp(ctx, userID, g)
			n.mailboxes.mu.Lock()
			defer n.mailboxes.mu.Unlock()
			n.mailboxes.setCounts(k, n.mailboxes.getOrAdd(k), &KeyCounts{OneTime: map[string]int{mainAlgorithm: 1}})
			return res, err
		}
		alice.key = n.login("alice").key
		x := alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys()}).want(200)
		if x.get("one_time_key_counts.signed_curve25519").Int() != 0 {
			t.Errorf("a new identity is told the keys of the old one: %s", x.body)
		}
	})
}

func TestEachKeyIsClaimedOnceOverProcesses(t *testing.T) {
	fleet(t, func(t *testing.T, one, two *node) {
		owners := []*login{one.register("alice"), one.register("carol"), two.register("dave")}
		bob := one.register("bob")
		const keys = 20
		for _, owner := range owners {
			var ids []string
			for i := range keys {
				ids = append(ids, fmt.Sprintf("K%02d", i))
			}
			owner.do("POST /keys/upload", obj{"one_time_keys": owner.oneTimeKeys(ids...)}).want(200)
			for _, at := range []*node{one, two} { // both remember the count now
				if count, _ := owner.on(at).counts(); count != keys {
					t.Fatalf("%d keys before the claims", count)
				}
			}
		}
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				as := bob.on([]*node{one, two}[w%2])
				for range keys/4 + 2 {
					for _, owner := range owners {
						if got := as.claimFrom(owner); got.Exists() {
							mu.Lock()
							seen[owner.userID+got.Raw]++
							mu.Unlock()
						}
					}
				}
			})
		}
		wg.Wait()
		if len(seen) != keys*len(owners) {
			t.Errorf("%d keys were given out, expected %d", len(seen), keys*len(owners))
		}
		for key, times := range seen {
			if times != 1 {
				t.Errorf("%s was given out %d times", key, times)
			}
		}
		for _, owner := range owners {
			for _, at := range []*node{one, two} {
				if count, _ := owner.on(at).counts(); count != 0 {
					t.Errorf("a process tells %d keys after all were claimed", count)
				}
			}
		}
	})
}

// Many claims at once give out the keys that there are; devices without keys cost no write.
func TestManyClaims(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob, carol := n.register("alice"), n.register("bob"), n.register("carol")
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("ONE", "TWO")}).want(200)
		carol.do("POST /keys/upload", obj{"fallback_keys": carol.oneTimeKeys("LAST")}).want(200)
		ask := obj{}
		for _, owner := range []*login{alice, carol} {
			of := obj{owner.deviceID: mainAlgorithm}
			for i := range 3 * claimsAtOnce {
				of[fmt.Sprint("NOBODY", i)] = mainAlgorithm
			}
			ask[owner.userID] = of
		}
		for i, want := range []int{2, 2, 1} {
			got := bob.do("POST /keys/claim", obj{"one_time_keys": ask}).want(200).get("one_time_keys")
			if n := len(got.Map()); n != want {
				t.Errorf("claim %d: the keys of %d users, expected %d: %s", i, n, want, got.Raw)
			}
		}
	})
}

// statements counts the statements that fn makes.
func statements(n *node, count *counter, fn func()) int64 {
	before := count.n.Load()
	fn()
	return count.n.Load() - before
}

func TestIdleDeviceMakesNoStatement(t *testing.T) {
	counted(t, func(t *testing.T, n *node, count *counter) {
		alice := n.register("alice")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}).want(200)
		ctx := context.Background()
		st, lists := n.ToDeviceStream(), n.DeviceListStream()
		pos := st.Position(st.Shard(alice.userID))
		after := lists.Positions()
		look := func() {
			_, _, err := n.ToDevice(ctx, alice.userID, alice.deviceID, MessageRange{pos, pos, 100})
			if err == nil {
				err = n.DeleteToDevice(ctx, alice.userID, alice.deviceID, pos)
			}
			if err == nil {
				_, _, err = n.OneTimeKeyCounts(ctx, alice.userID, alice.deviceID)
			}
			if err == nil {
				_, err = n.ChangedUsers(ctx, "@nobody:here.test", after, lists.Positions())
			}
			if err != nil {
				t.Error(err)
			}
		}
		look()
		const many = 100 // background parts make a few statements meanwhile
		if made := statements(n, count, func() {
			for range many {
				look()
			}
		}); made > many/2 {
			t.Errorf("%d looks of an idle device made %d statements", many, made)
		}
		if first, last, err := n.pending(ctx, alice.userID, alice.deviceID); err != nil || first != 0 || last != 0 {
			t.Errorf("pending: %d to %d, %v", first, last, err)
		}
		before := lists.Positions()
		alice.do("PUT /devices/"+alice.deviceID, obj{"display_name": "New"}).want(200)
		made := statements(n, count, func() {
			for range many {
				changed, err := n.ChangedUsers(ctx, "@nobody:here.test", before, lists.Positions())
				if err != nil || !slices.Equal(changed, []string{alice.userID}) {
					t.Errorf("changed: %v, %v", changed, err)
				}
			}
		})
		if made > many/2 {
			t.Errorf("%d readings of a change that was just seen needed %d statements", many, made)
		}
	})
}

// kept reads what is stored of a device's keys, and up to where their news are written.
func (l *login) kept() (oneTime, bytes, fallback int, deviceKeys string, news int64) {
	l.n.t.Helper()
	err := l.n.db.QueryRow(context.Background(), `SELECT (SELECT COUNT(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2),
		(SELECT COALESCE(SUM(LENGTH(body)), 0) FROM one_time_keys WHERE user_id = $1 AND device_id = $2),
		(SELECT COUNT(*) FROM fallback_keys WHERE user_id = $1 AND device_id = $2),
		COALESCE((SELECT MAX(body) FROM device_keys WHERE user_id = $1 AND device_id = $2), ''),
		COALESCE((SELECT MAX(pos) FROM key_count_changes WHERE user_id = $1 AND device_id = $2), 0)`, l.userID, l.deviceID).
		Scan(&oneTime, &bytes, &fallback, &deviceKeys, &news)
	if err != nil {
		l.n.t.Fatal(err)
	}
	return oneTime, bytes, fallback, deviceKeys, news
}

// plainKeys are n keys without signatures.
func plainKeys(algorithm, name string, n int) obj {
	out := obj{}
	for i := range n {
		out[fmt.Sprintf("%s:%s%04d", algorithm, name, i)] = "key"
	}
	return out
}

func TestKeysOfADeviceAreBounded(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		x := alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "A", maxOneTime)}).want(200)
		if x.get("one_time_key_counts.curve25519").Int() != maxOneTime {
			t.Fatalf("counts: %s", x.body)
		}
		alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "A", maxOneTime)}).want(200) // a repetition
		for _, more := range []obj{plainKeys("curve25519", "B", 1), plainKeys("other", "A", 1)} {
			alice.do("POST /keys/upload", obj{"one_time_keys": more}).want(413, "M_TOO_LARGE")
		}
		bob.do("POST /keys/claim", obj{"one_time_keys": obj{alice.userID: obj{alice.deviceID: "curve25519"}}}).want(200)
		alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "B", 2)}).want(413, "M_TOO_LARGE")
		alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "B", 1)}).want(200)
		if stored, _, _, _, _ := alice.kept(); stored != maxOneTime {
			t.Errorf("expected %d keys, found %d", maxOneTime, stored)
		}

		for _, member := range []string{"one_time_keys", "fallback_keys"} {
			carol := n.login("bob")
			carol.do("POST /keys/upload", obj{member: obj{"curve25519:A": strings.Repeat("x", maxKey)}}).want(413, "M_TOO_LARGE")
			kinds := obj{}
			for i := range maxKinds {
				kinds[fmt.Sprintf("kind%d:A", i)] = "key"
			}
			carol.do("POST /keys/upload", obj{member: kinds}).want(200)
			carol.do("POST /keys/upload", obj{member: obj{"more:A": "key"}}).want(413, "M_TOO_LARGE")
			carol.do("POST /keys/upload", obj{member: obj{"kind0:B": "key"}}).want(200)
			if a, _, b, _, _ := carol.kept(); a != 0 && b != 0 || a+b < maxKinds || a+b > maxKinds+1 {
				t.Errorf("%s: found %d one-time keys and %d fallback keys", member, a, b)
			}
		}
		bob.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "A", maxOneTime+1)}).want(413, "M_TOO_LARGE")
	})
}

// TestAKeyThatWasGivenOutIsNotTakenAgain: a client that lost the answer to an upload repeats it, when the key may have been claimed.
func TestAKeyThatWasGivenOutIsNotTakenAgain(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob, carol := n.register("alice"), n.register("bob"), n.register("carol")
		upload := obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}
		alice.do("POST /keys/upload", upload).want(200)
		if k := bob.claimFrom(alice); !k.Get(`signed_curve25519\:A.key`).Exists() {
			t.Fatalf("found %s", k)
		}
		for range 2 {
			if x := alice.do("POST /keys/upload", upload).want(200); x.get("one_time_key_counts.signed_curve25519").Int() != 0 {
				t.Errorf("counts: %s", x.body)
			}
			if k := carol.claimFrom(alice); k.Exists() {
				t.Errorf("the key of bob was given to carol: %s", k)
			}
		}
		upload = obj{"one_time_keys": alice.oneTimeKeys("A", "B")}
		if x := alice.do("POST /keys/upload", upload).want(200); x.get("one_time_key_counts.signed_curve25519").Int() != 1 {
			t.Errorf("counts with a new key: %s", x.body)
		}
		if k := carol.claimFrom(alice); !k.Get(`signed_curve25519\:B.key`).Exists() {
			t.Errorf("found %s", k)
		}

		// A client that lost its store begins with the same ids.
		other := obj{"signed_curve25519:A": alice.oneTimeKey("other")}
		alice.do("POST /keys/upload", obj{"one_time_keys": other}).want(200)
		alice.do("POST /keys/upload", obj{"one_time_keys": alice.oneTimeKeys("A")}).want(200)
		if k := carol.claimFrom(alice); k.Get(`signed_curve25519\:A.key`).String() != "other" {
			t.Errorf("found %s", k)
		}
		if k := carol.claimFrom(alice); k.Exists() {
			t.Errorf("found %s", k)
		}
		// Another device has keys of its own.
		tablet := n.login("alice")
		tablet.do("POST /keys/upload", obj{"one_time_keys": obj{"curve25519:A": "key"}}).want(200)
		alice.do("POST /keys/upload", obj{"one_time_keys": obj{"curve25519:A": "key"}}).want(200)
		if counts, _, err := n.OneTimeKeyCounts(context.Background(), alice.userID, alice.deviceID); err != nil || counts["curve25519"] != 1 {
			t.Errorf("found %v, %v", counts, err)
		}
	})
}

func TestRememberedKeysOfADeviceAreBounded(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		remembered := func() (rows int) {
			t.Helper()
			err := n.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM one_time_key_hashes WHERE user_id = $1
				AND device_id = $2`, alice.userID, alice.deviceID).
				Scan(&rows)
			if err != nil {
				t.Fatal(err)
			}
			return rows
		}
		for i := range 5 {
			alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", string(rune('A'+i)), maxOneTime)}).want(200)
			if _, err := n.db.Exec(context.Background(), `DELETE FROM one_time_keys`); err != nil { // as when all are given out
				t.Fatal(err)
			}
		}
		if got := remembered(); got != maxHashes {
			t.Errorf("expected %d rows, found %d", maxHashes, got)
		}
		alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", "E", maxOneTime)}).want(200)
		if stored, _, _, _, _ := alice.kept(); stored != 0 {
			t.Errorf("%d of the newest keys were taken again", stored)
		}
		if err := n.accounts.RemoveDevices(context.Background(), alice.userID, "", []string{alice.deviceID}); err != nil {
			t.Fatal(err)
		}
		if got := remembered(); got != 0 {
			t.Errorf("%d rows of a removed device are left", got)
		}
	})
}

func TestUploadsAtOnceStayInBounds(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		var wg sync.WaitGroup
		var mu sync.Mutex
		taken := 0
		for i := range 4 {
			wg.Go(func() {
				x := alice.do("POST /keys/upload", obj{"one_time_keys": plainKeys("curve25519", string(rune('A'+i)), maxOneTime/2-1)})
				mu.Lock()
				defer mu.Unlock()
				if x.status == 200 {
					taken++
				} else if x.status != 413 {
					t.Errorf("found %d: %s", x.status, x.body)
				}
			})
		}
		wg.Wait()
		if stored, _, _, _, _ := alice.kept(); taken != 2 || stored != 2*(maxOneTime/2-1) {
			t.Errorf("%d uploads were taken and %d keys are stored, expected 2 and %d", taken, stored, 2*(maxOneTime/2-1))
		}
	})
}

func TestARefusedUploadWritesNothing(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}).want(200)
		type all struct {
			oneTime, bytes, fallback int
			deviceKeys               string
			news                     int64
		}
		look := func() (a all) { a.oneTime, a.bytes, a.fallback, a.deviceKeys, a.news = alice.kept(); return a }
		before := look()
		st, lists := n.ToDeviceStream(), n.DeviceListStream()
		positions := append(st.Positions(), lists.Positions()...)
		clash := obj{"signed_curve25519:A": alice.oneTimeKey("other"), "signed_curve25519:B": alice.oneTimeKey("b")}
		for _, body := range []obj{
			{"one_time_keys": clash},
			{"one_time_keys": clash, "fallback_keys": alice.oneTimeKeys("F")},
			{"one_time_keys": plainKeys("curve25519", "A", maxOneTime), "fallback_keys": alice.oneTimeKeys("F")},
		} {
			if x := alice.do("POST /keys/upload", body); x.status/100 != 4 {
				t.Errorf("expected that it is refused, found %d: %s", x.status, x.body)
			}
		}
		if after := look(); after != before {
			t.Errorf("refused uploads wrote: before %+v, after %+v", before, after)
		}
		n.barrier()
		if now := append(st.Positions(), lists.Positions()...); !slices.Equal(now, positions) {
			t.Errorf("refused uploads moved the streams from %v to %v", positions, now)
		}

		// The same when the upload is found to clash only where it is written.
		late := keyUpload{
			DeviceID: alice.deviceID,
			OneTime:  []publicKey{{Algorithm: mainAlgorithm, ID: "A", Body: "{}"}, {Algorithm: mainAlgorithm, ID: "B", Body: "{}"}},
		}
		if _, err := n.uploadAtOwner(context.Background(), alice.userID, late); err == nil {
			t.Error("expected that it is refused")
		}
		if after := look(); after != before {
			t.Errorf("a late refusal wrote: before %+v, after %+v", before, after)
		}

		// Nor are identity keys stored of which the request has the one-time keys refused.
		phone := n.login("alice")
		phone.do("POST /keys/upload", obj{"one_time_keys": phone.oneTimeKeys("A")}).want(200)
		phone.do("POST /keys/upload", obj{
			"device_keys":   phone.deviceKeys(),
			"one_time_keys": obj{"signed_curve25519:A": phone.oneTimeKey("other")},
		}).
			want(400, "M_UNKNOWN")
		if _, _, _, keys, _ := phone.kept(); keys != "" {
			t.Errorf("a refused upload stored identity keys: %s", keys)
		}
		// A new identity ends the old keys, so that their ids and their number do not count.
		phone.do("POST /keys/upload", obj{"device_keys": phone.deviceKeys()}).want(200)
		phone.key = n.login("alice").key
		phone.do("POST /keys/upload", obj{
			"device_keys":   phone.deviceKeys(),
			"one_time_keys": obj{"signed_curve25519:A": phone.oneTimeKey("other")},
		}).
			want(200)
	})
}
