package devices

import (
	"context"
	"fmt"
	"testing"

	"lyceum/matrix"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

func (n *node) loginWith(name, deviceID string) *login {
	n.t.Helper()
	return n.newLogin(
		n.do(
			"POST /login",
			"",
			obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": name}, "password": password, "device_id": deviceID},
		),
	)
}

// kept is how many rows are there for a device.
func (n *node) kept(userID, deviceID string) (rows int) {
	n.t.Helper()
	err := n.db.QueryRow(context.Background(), `SELECT (SELECT COUNT(*) FROM device_keys WHERE user_id = $1
		AND device_id = $2) + (SELECT COUNT(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2)
		+ (SELECT COUNT(*) FROM fallback_keys WHERE user_id = $1 AND device_id = $2) + (SELECT COUNT(*) FROM to_device WHERE user_id = $1
		AND device_id = $2)
		+ (SELECT COUNT(*) FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2) + (SELECT COUNT(*) FROM key_signatures
			WHERE user_id = $1 AND target = $2)`, userID, deviceID).
		Scan(&rows)
	if err != nil {
		n.t.Fatal(err)
	}
	return rows
}

var uploadPassword = obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password}

// ends are the ways in which a device ends.
var ends = []func(l *login) answer{
	func(l *login) answer { return l.do("POST /logout", nil) },
	func(l *login) answer { return l.do("POST /logout/all", nil) },
	func(l *login) answer {
		return l.do("POST /delete_devices", obj{"devices": []string{l.deviceID}, "auth": uploadPassword})
	},
	func(l *login) answer { return l.do("DELETE /devices/"+l.deviceID, obj{"auth": uploadPassword}) },
}

// Nothing that a device uploads, and no message to it, outlives the device: neither for others nor for who logs in with its id.
func TestNothingOutlivesItsDevice(t *testing.T) {
	const rounds, callers = 16, 6
	fleet(t, func(t *testing.T, one, two *node) {
		bob := one.register("bob")
		one.register("alice")
		outlived, claimed := 0, 0
		for round := range rounds {
			alice := two.loginWith("alice", "PHONE")
			var ended answer
			var early bool
			roletest.AtOnce(callers, func(i int) {
				l := alice.on([]*node{one, two}[i%2])
				switch i {
				case 0:
					ended = ends[round%len(ends)](l)
					early = bob.claimFrom(alice).Exists()
				case 1, 2:
					bob.on(l.n).do(fmt.Sprintf("PUT /sendToDevice/m.test/%d.%d", round, i), obj{"messages": obj{alice.userID: obj{"PHONE": obj{"n": i}}}})
				default:
					x := l.do("POST /keys/upload", obj{
						"device_keys": l.deviceKeys(), "one_time_keys": l.oneTimeKeys(fmt.Sprint("A", i), fmt.Sprint("B", i)),
						"fallback_keys": l.oneTimeKeys(fmt.Sprint("F", i)),
					})
					if x.status != 200 && (x.status != 401 || x.get("errcode").String() != "M_UNKNOWN_TOKEN") {
						t.Errorf("expected keys to be taken, or 401 M_UNKNOWN_TOKEN, found %d: %s", x.status, x.body)
					}
				}
			})
			ended.want(200)
			if one.kept(alice.userID, "PHONE") > 0 {
				outlived++
			}
			again := one.loginWith("alice", "PHONE")
			if early || bob.claimFrom(again).Exists() {
				claimed++
			}
			again.do("POST /logout", nil).want(200)
		}
		if outlived+claimed > 0 {
			t.Errorf("of %d rounds something outlived the device in %d, and keys of it were claimed in %d", rounds, outlived, claimed)
		}
	})
}

// A message that was on its way when its device went is not stored, as the clean-up after the device came before it.
func TestAMessageToADeviceThatWentIsNotStored(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		n.register("alice")
		gone, there := n.loginWith("alice", "GONE"), n.loginWith("alice", "THERE")
		messageTo := func(l *login) *stream.Entry {
			return n.entry(l.userID, l.deviceID, &message{deviceID: l.deviceID, sender: "@bob:here.test", typ: "m.test", content: "{}"})
		}
		onItsWay := []*stream.Entry{messageTo(there), messageTo(gone), messageTo(there)}
		gone.do("POST /logout", nil).want(200)
		if err := n.p.Streams.Append(t.Context(), onItsWay...); err != nil {
			t.Fatal(err)
		}
		for l, want := range map[*login]int{gone: 0, there: 2} {
			if rows := n.kept(l.userID, l.deviceID); rows != want {
				t.Errorf("device %s: expected %d messages, found %d", l.deviceID, want, rows)
			}
		}
	})
}

// A deactivated user has nothing, whatever was on its way.
func TestNothingOutlivesItsUser(t *testing.T) {
	const rounds = 6
	run(t, func(t *testing.T, n *node) {
		outlived := 0
		for round := range rounds {
			name := fmt.Sprint("carol", round)
			carol := n.register(name)
			sessions := obj{
				"rooms": obj{
					"!r:here.test": obj{
						"sessions": obj{"s": obj{"first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": obj{}}},
					},
				},
			}
			version := carol.do("POST /room_keys/version", obj{"algorithm": "a", "auth_data": obj{}}).want(200).get("version").String()
			roletest.AtOnce(6, func(i int) {
				switch i {
				case 0:
					carol.do("POST /account/deactivate", obj{"auth": obj{"type": "m.login.password", "identifier": obj{
						"type": "m.id.user",
						"user": name,
					}, "password": password}}).
							want(200)
				case 1, 2:
					carol.do("POST /room_keys/version", obj{"algorithm": "a", "auth_data": obj{}})
				case 3:
					carol.do("PUT /room_keys/keys?version="+version, sessions)
				case 4:
					carol.do("POST /keys/device_signing/upload", obj{"master_key": signingKeyOf(carol.userID, usageMaster, newKey(t))})
				case 5:
					carol.do("POST /keys/upload", obj{"device_keys": carol.deviceKeys(), "one_time_keys": carol.oneTimeKeys("A")})
				}
			})
			var rows int
			err := n.db.QueryRow(t.Context(), `SELECT (SELECT COUNT(*) FROM backup_versions WHERE user_id = $1) + (SELECT COUNT(*)
				FROM backup_keys WHERE user_id = $1) + (SELECT COUNT(*) FROM cross_signing_keys WHERE user_id = $1)`, carol.userID).
				Scan(&rows)
			if err != nil {
				t.Fatal(err)
			}
			if rows+n.kept(carol.userID, carol.deviceID) > 0 {
				outlived++
			}
		}
		if outlived > 0 {
			t.Errorf("in %d of %d rounds something outlived the user", outlived, rounds)
		}
	})
}

// What a device of the same id has is not touched by a clean-up after an earlier one that comes late.
func TestALateCleanUpLeavesTheNewDevice(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		bob := n.register("bob")
		n.register("alice")
		old := n.loginWith("alice", "PHONE")
		old.do("POST /logout", nil).want(200)
		alice := n.loginWith("alice", "PHONE")
		alice.do("POST /keys/upload", obj{
			"device_keys": alice.deviceKeys(), "one_time_keys": alice.oneTimeKeys("A"),
			"fallback_keys": alice.oneTimeKeys("F"),
		}).
			want(200)
		bob.do("PUT /sendToDevice/m.test/1", obj{"messages": obj{alice.userID: obj{"PHONE": obj{}}}}).want(200)
		before := n.kept(alice.userID, "PHONE")
		if err := n.DevicesRemoved(t.Context(), alice.userID, []string{"PHONE"}); err != nil {
			t.Fatal(err)
		}
		if now := n.kept(alice.userID, "PHONE"); before != 5 || now != before {
			t.Errorf("expected 5 rows before and after, found %d and %d", before, now)
		}
	})
}

// What the token of an earlier log-in with the device id sent comes too late after the next log-in.
func TestWhatAnEarlierTokenSentIsRefused(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		n.register("alice")
		old := n.loginWith("alice", "PHONE")
		id, err := n.accounts.Authenticate(t.Context(), old.token)
		if err != nil {
			t.Fatal(err)
		}
		old.do("POST /keys/upload", obj{"device_keys": old.deviceKeys()}).want(200)
		alice := n.loginWith("alice", "PHONE")
		if err := n.putDeviceKeys(t.Context(), id, string(old.deviceKeys()), string(alice.deviceKeys())); matrix.AsError(
			err,
		).Code != matrix.CodeUnknownToken {
			t.Errorf("device keys: found %v", err)
		}
		if err := n.putDeviceKeys(t.Context(), id, "", string(alice.deviceKeys())); matrix.AsError(err).Code != matrix.CodeUnknownToken {
			t.Errorf("device keys: found %v", err)
		}
		if _, err := n.upload(t.Context(), alice.userID, keyUpload{DeviceID: "PHONE", Token: id.TokenID, OneTime: []publicKey{{
			mainAlgorithm,
			"Z", `"z"`,
		}}}); matrix.AsError(
			err,
		).Code != matrix.CodeUnknownToken {
			t.Errorf("one-time keys: found %v", err)
		}
		if res, err := n.change(t.Context(), alice.userID, listChange{
			Signing: []signingKey{{usageMaster, "x", "{}"}},
			Token:   id.TokenID,
		}); err != nil ||
			!res.Refused {
			t.Errorf("cross-signing keys: found %+v, %v", res, err)
		}
		signatures := []keySignature{
			{Target: "PHONE", Signer: alice.userID, KeyID: "ed25519:x", Signature: "c2ln", On: string(alice.deviceKeys())},
		}
		if res, err := n.change(t.Context(), alice.userID, listChange{Signatures: signatures}); err != nil || res.Refused {
			t.Errorf("a signature: found %+v, %v", res, err)
		}
		if now := n.kept(alice.userID, "PHONE"); now != 1 {
			t.Errorf("expected the device keys alone, found %d rows", now)
		}
	})
}
