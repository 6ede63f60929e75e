package devices

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// identity are the cross-signing keys of a user.
type identity struct {
	master, self, user ed25519.PrivateKey
	body               obj
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signingKeyOf(userID, usage string, key ed25519.PrivateKey) obj {
	return obj{"user_id": userID, "usage": []string{usage}, "keys": obj{"ed25519:" + public(key): public(key)}}
}

func (l *login) newIdentity() *identity {
	l.n.t.Helper()
	t := l.n.t
	i := &identity{master: newKey(t), self: newKey(t), user: newKey(t)}
	i.body = obj{
		"master_key":       signingKeyOf(l.userID, usageMaster, i.master),
		"self_signing_key": sign(t, signingKeyOf(l.userID, usageSelf, i.self), l.userID, public(i.master), i.master),
		"user_signing_key": sign(t, signingKeyOf(l.userID, usageUser, i.user), l.userID, public(i.master), i.master),
	}
	return i
}

func (l *login) query(of *login) gjson.Result {
	l.n.t.Helper()
	return gjson.ParseBytes(l.do("POST /keys/query", obj{"device_keys": obj{of.userID: []string{}}}).want(200).body)
}

func at(r gjson.Result, path ...string) gjson.Result {
	for _, p := range path {
		r = r.Get(gjson.Escape(p))
	}
	return r
}

func withAuth(body obj, session string) obj {
	out := obj{"auth": obj{"type": "m.login.password", "session": session, "password": password}}
	for k, v := range body {
		out[k] = v
	}
	return out
}

// confirm does what the user has to confirm with the password.
func (l *login) confirm(target string, body obj) {
	l.n.t.Helper()
	l.do(target, withAuth(body, l.do(target, body).want(401).get("session").String())).want(200)
}

func TestCrossSigningKeys(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		const path = "POST /keys/device_signing/upload"
		first := alice.newIdentity()
		alice.do(path, obj{"self_signing_key": first.body["self_signing_key"]}).want(400, "M_MISSING_PARAM")
		forged := obj{"master_key": first.body["master_key"], "self_signing_key": alice.newIdentity().body["self_signing_key"]}
		alice.do(path, forged).want(400, "M_INVALID_SIGNATURE")
		bob.do(path, first.body).want(400, "M_INVALID_PARAM")
		alice.do(path, first.body).want(200) // the first needs no password
		alice.do(path, first.body).want(200) // nor does a repetition
		if got := alice.query(alice); at(got, "master_keys", alice.userID, "user_id").String() != alice.userID ||
			!at(got, "self_signing_keys", alice.userID).Exists() ||
			!at(got, "user_signing_keys", alice.userID).Exists() {
			t.Errorf("own keys: %s", got)
		}
		if got := bob.query(alice); !at(got, "master_keys", alice.userID).Exists() || at(got, "user_signing_keys", alice.userID).Exists() {
			t.Errorf("another user's keys: %s", got)
		}
		second := alice.newIdentity()
		challenge := alice.do(path, second.body).want(401)
		alice.do(path, withAuth(second.body, challenge.get("session").String())).want(200)
		if got := bob.query(alice); !at(got, "master_keys", alice.userID, "keys", "ed25519:"+public(second.master)).Exists() {
			t.Errorf("after the replacement: %s", got)
		}
		third := alice.newIdentity() // signed by a master key that is not stored
		challenge = alice.do(path, obj{"user_signing_key": third.body["user_signing_key"]})
		challenge.want(400, "M_INVALID_SIGNATURE")
	})
}

func TestFirstIdentityIsSetOnceWithoutPassword(t *testing.T) {
	fleet(t, func(t *testing.T, one, two *node) {
		alice := one.register("alice")
		var wg sync.WaitGroup
		var mu sync.Mutex
		stored := 0
		for i := range 6 {
			wg.Go(func() {
				got := alice.on([]*node{one, two}[i%2]).do("POST /keys/device_signing/upload", alice.newIdentity().body)
				mu.Lock()
				defer mu.Unlock()
				switch got.status {
				case 200:
					stored++
				case 401, 409:
				default:
					t.Errorf("%d: %s", got.status, got.body)
				}
			})
		}
		wg.Wait()
		if stored != 1 {
			t.Errorf("%d identities were stored without a password", stored)
		}
	})
}

func TestSignatures(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		carol := n.register("carol")
		alices, bobs := alice.newIdentity(), bob.newIdentity()
		for l, i := range map[*login]*identity{alice: alices, bob: bobs} {
			l.do("POST /keys/upload", obj{"device_keys": l.deviceKeys()}).want(200)
			l.do("POST /keys/device_signing/upload", i.body).want(200)
		}
		const path = "POST /keys/signatures/upload"
		deviceSigned := sign(t, alice.deviceKeys(), alice.userID, public(alices.self), alices.self)
		masterSigned := sign(t, alices.body["master_key"], alice.userID, alice.deviceID, alice.key)
		otherSigned := sign(t, bobs.body["master_key"], alice.userID, public(alices.user), alices.user)
		x := alice.do(path, obj{
			alice.userID: obj{alice.deviceID: deviceSigned, public(alices.master): masterSigned},
			bob.userID:   obj{public(bobs.master): otherSigned},
		}).want(200)
		if x.get("failures").Raw != "{}" {
			t.Fatalf("failures: %s", x.body)
		}
		own := alice.query(alice)
		if !at(own, "device_keys", alice.userID, alice.deviceID, "signatures", alice.userID, "ed25519:"+public(alices.self)).Exists() {
			t.Errorf("the device's signature: %s", own)
		}
		if !at(own, "master_keys", alice.userID, "signatures", alice.userID, "ed25519:"+alice.deviceID).Exists() {
			t.Errorf("the master key's signature: %s", own)
		}
		if !at(alice.query(bob), "master_keys", bob.userID, "signatures", alice.userID).Exists() {
			t.Error("the signer does not see the signature on another user")
		}
		for _, viewer := range []*login{bob, carol} {
			if at(viewer.query(bob), "master_keys", bob.userID, "signatures", alice.userID).Exists() {
				t.Error("a signature on another user is seen by others than its maker")
			}
		}
		if !at(
			carol.query(alice), "device_keys", alice.userID, alice.deviceID, "signatures", alice.userID, "ed25519:"+public(alices.self),
		).Exists() {
			t.Error("others do not see a user's own signature")
		}

		wrongKey := sign(t, alice.deviceKeys(), alice.userID, public(alices.self), alices.user)
		changed := sign(t, obj{"user_id": alice.userID, "device_id": alice.deviceID}, alice.userID, public(alices.self), alices.self)
		foreign := sign(t, bob.deviceKeys(), alice.userID, public(alices.self), alices.self)
		for name, c := range map[string]struct {
			userID, target string
			body           json.RawMessage
			code           string
		}{
			"a wrong signature":     {alice.userID, alice.deviceID, wrongKey, "M_INVALID_SIGNATURE"},
			"no signature":          {alice.userID, alice.deviceID, alice.deviceKeys(), "M_INVALID_SIGNATURE"},
			"another text":          {alice.userID, alice.deviceID, changed, "M_INVALID_PARAM"},
			"another user's device": {bob.userID, bob.deviceID, foreign, "M_NOT_FOUND"},
			"no such device":        {alice.userID, "NOPE", deviceSigned, "M_NOT_FOUND"},
		} {
			x := alice.do(path, obj{c.userID: obj{c.target: c.body}}).want(200)
			if got := at(gjson.ParseBytes(x.body), "failures", c.userID, c.target, "errcode").String(); got != c.code {
				t.Errorf("%s: %s", name, x.body)
			}
		}
		// Signatures end with the keys that they are on or by.
		next := alice.newIdentity()
		challenge := alice.do("POST /keys/device_signing/upload", next.body).want(401)
		alice.do("POST /keys/device_signing/upload", withAuth(alice.newIdentity().body, challenge.get("session").String())).
			want(401)
			// begun for other keys
		alice.do("POST /keys/device_signing/upload", withAuth(next.body, challenge.get("session").String())).want(200)
		if at(alice.query(bob), "master_keys", bob.userID, "signatures", alice.userID).Exists() {
			t.Error("a signature outlived the key that made it")
		}
	})
}

// TestDeletionIsConfirmedForTheseDevices: an authentication that was begun for deleting one device deletes no other.
func TestDeletionIsConfirmedForTheseDevices(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, one, two, bob := n.register("alice"), n.login("alice"), n.login("alice"), n.register("bob")
		begin := func(path string, body any) string { return alice.do(path, body).want(401).get("session").String() }
		list := func(ids ...string) obj { return obj{"devices": ids} }
		const remove, removeAll = "DELETE /devices/", "POST /delete_devices"
		for name, try := range map[string]func() answer{
			"another device": func() answer { return alice.do(remove+two.deviceID, withAuth(obj{}, begin(remove+one.deviceID, nil))) },
			"a list for one device": func() answer {
				return alice.do(removeAll, withAuth(list(one.deviceID), begin(remove+one.deviceID, nil)))
			},
			"one more device": func() answer {
				return alice.do(removeAll, withAuth(list(one.deviceID, two.deviceID), begin(removeAll, list(one.deviceID))))
			},
			"another list": func() answer {
				return alice.do(removeAll, withAuth(list(two.deviceID), begin(removeAll, list(one.deviceID))))
			},
			"another user": func() answer { return bob.do(remove+one.deviceID, withAuth(obj{}, begin(remove+one.deviceID, nil))) },
		} {
			if x := try(); x.status != 401 {
				t.Errorf("%s: %d %s", name, x.status, x.body)
			}
		}
		one.do("GET /devices", nil).want(200)
		two.do("GET /devices", nil).want(200)
		alice.do(removeAll, withAuth(list(one.deviceID), begin(removeAll, list(one.deviceID)))).want(200)
		one.do("GET /devices", nil).want(401)
	})
}

func TestRemovedDeviceLeavesNothing(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		second := n.login("bob")
		for _, l := range []*login{bob, second} {
			l.do("POST /keys/upload", obj{"device_keys": l.deviceKeys(), "one_time_keys": l.oneTimeKeys("A"), "fallback_keys": l.oneTimeKeys("F")}).
				want(200)
		}
		alice.do("PUT /sendToDevice/m.x/1", obj{"messages": obj{bob.userID: obj{"*": obj{}}}}).want(200)
		before := n.DeviceListStream().Positions()
		alice.do("DELETE /devices/"+second.deviceID, withAuth(obj{}, "")).want(200) // another user's: nothing happens
		if len(at(alice.query(bob), "device_keys", bob.userID).Map()) != 2 {
			t.Fatal("a user removed the device of another")
		}
		challenge := bob.do("DELETE /devices/"+second.deviceID, nil).want(401)
		bob.do("DELETE /devices/"+second.deviceID, withAuth(obj{}, challenge.get("session").String())).want(200)
		second.do("GET /devices", nil).want(401)
		if got := at(alice.query(bob), "device_keys", bob.userID); at(got, second.deviceID).Exists() || !at(got, bob.deviceID).Exists() {
			t.Errorf("keys: %s", got)
		}
		if alice.claimFrom(second).Exists() {
			t.Error("a key of a removed device was given out")
		}
		if got, _ := second.inbox(0); len(got) != 0 {
			t.Errorf("messages of a removed device: %v", got)
		}
		changed, err := n.ChangedUsers(context.Background(), "@nobody:here.test", before, n.DeviceListStream().Positions())
		if err != nil || !slices.Equal(changed, []string{bob.userID}) {
			t.Errorf("changed: %v, %v", changed, err)
		}
		from, to := n.token(before), n.token(n.DeviceListStream().Positions())
		x := alice.do("GET /keys/changes?from="+from+"&to="+to, nil).want(200)
		if x.get("changed.0").String() != bob.userID || x.get("left").Raw != `["@zoe:here.test"]` {
			t.Errorf("keys/changes: %s", x.body)
		}
		if x := alice.do("GET /keys/changes?from="+to+"&to="+to, nil).want(200); len(x.get("changed").Array()) != 0 {
			t.Errorf("nothing changed, found %s", x.body)
		}
		// A token that does not say where it is stands for the beginning, or for now.
		elsewhere := n.layout.Encode(n.p.LogEpoch()+1, before, "")
		resharded := stream.NewLayout(stream.Part{Number: n.lists.Number(), Generation: 1, N: 4}).Encode(n.p.LogEpoch(), make([]int64, 4), "")
		for _, odd := range []string{elsewhere, resharded} {
			x := alice.do("GET /keys/changes?from="+odd+"&to="+odd, nil).want(200)
			if !slices.ContainsFunc(x.get("changed").Array(), func(id gjson.Result) bool { return id.String() == bob.userID }) {
				t.Errorf("keys/changes of %s: %s", odd, x.body)
			}
		}
		alice.do("GET /keys/changes?from="+from[:9]+"&to="+to, nil).want(400, "M_INVALID_PARAM")
		x = bob.do("GET /devices", nil).want(200)
		if len(x.get("devices").Array()) != 1 || x.get("devices.0.device_id").String() != bob.deviceID {
			t.Errorf("devices: %s", x.body)
		}
		bob.do("GET /devices/NOPE", nil).want(404, "M_NOT_FOUND")
		alice.do("GET /devices/"+bob.deviceID, nil).want(404, "M_NOT_FOUND")
		alice.do("PUT /devices/"+bob.deviceID, obj{"display_name": "x"}).want(404, "M_NOT_FOUND")
		bob.do("POST /delete_devices", obj{}).want(400, "M_MISSING_PARAM")

		// What came for a device while it was removed goes later.
		ctx := context.Background()
		gone, lose := roletest.Job(t, n.p)
		lose()
		job, _ := roletest.Job(t, n.p)
		if _, err := n.upload(ctx, bob.userID, keyUpload{DeviceID: second.deviceID, OneTime: []publicKey{{
			mainAlgorithm, "Z",
			`"z"`,
		}}}); err != nil {
			t.Fatal(err)
		}
		// A process that looked for such devices, was paused, and wakes up when another one does the work: the device may be
		// there again.
		if err := n.dropForRemovedDevices(ctx, gone); !errors.Is(err, lease.ErrLost) {
			t.Errorf("a job that was taken over: expected ErrLost, found %v", err)
		}
		under := gone.Lease()
		if res, err := n.change(ctx, bob.userID, listChange{Removed: []string{bob.deviceID}, Lease: &under}); err != nil || !res.LeaseLost {
			t.Errorf("a change of a job that was taken over: %+v, %v", res, err)
		}
		if count, _ := second.counts(); count != 1 {
			t.Error("a job that was taken over dropped keys")
		}
		if got := at(alice.query(bob), "device_keys", bob.userID); !at(got, bob.deviceID).Exists() {
			t.Errorf("a job that was taken over dropped identity keys: %s", got)
		}
		if err := n.dropForRemovedDevices(ctx, job); err != nil {
			t.Fatal(err)
		}
		if count, _ := second.counts(); count != 0 {
			t.Error("the remains of a removed device were not swept")
		}
		if _, err := n.upload(ctx, bob.userID, keyUpload{DeviceID: second.deviceID, Fallback: []publicKey{{
			mainAlgorithm, "Z",
			`"z"`,
		}}}); err != nil {
			t.Fatal(err)
		}
		// Users whose devices can not be dropped keep no others waiting.
		stays := [][]any{}
		for i := range 600 {
			stays = append(stays, []any{fmt.Sprintf("@a%03d:here.test", i), "GONE", mainAlgorithm, "K", "{}"})
		}
		if err := n.db.Bulk(ctx, `INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, body) VALUES ?`, stays); err != nil {
			t.Fatal(err)
		}
		cleanUp := n.cleanUp
		n.cleanUp = func(ctx context.Context, userID string, g deviceCleanup) (cleanupResult, error) {
			if strings.HasPrefix(userID, "@a0") {
				return cleanupResult{}, errors.New("this one fails each time")
			}
			return cleanUp(ctx, userID, g)
		}
		if err := n.dropForRemovedDevices(ctx, job); err != nil {
			t.Fatal(err)
		}
		n.cleanUp = cleanUp
		if _, _, fallback, _, _ := second.kept(); fallback != 0 {
			t.Error("the fallback key of a removed device was not swept")
		}
		if count, _ := bob.counts(); count != 1 {
			t.Error("the sweep took the keys of a device that exists")
		}
	})
}

func TestDeactivatedUserLeavesNothing(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		alice.do("POST /keys/upload", obj{"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A")}).want(200)
		alice.do("POST /keys/device_signing/upload", alice.newIdentity().body).want(200)
		v := alice.newBackup()
		alice.do("PUT /room_keys/keys/!r:x/s?version="+v, session(1, 0, false, "a")).want(200)
		if err := n.accounts.Deactivate(context.Background(), alice.userID, false); err != nil {
			t.Fatal(err)
		}
		if got := bob.query(alice); at(got, "master_keys", alice.userID).Exists() || len(at(got, "device_keys", alice.userID).Map()) != 0 {
			t.Errorf("keys: %s", got)
		}
		for _, table := range []string{
			"device_keys", "one_time_keys", "one_time_key_hashes", "cross_signing_keys", "backup_versions",
			"backup_keys",
		} {
			var left int
			if err := n.db.QueryRow(context.Background(), `SELECT COUNT(*) FROM `+table+`
				WHERE user_id = $1`, alice.userID).Scan(&left); err != nil ||
				left != 0 {
				t.Errorf("%s has %d rows of the user, %v", table, left, err)
			}
		}
	})
}
