package devices

import (
	"context"
	"slices"
	"testing"
)

// heads are the positions of the device lists.
func (n *node) heads() []int64 {
	n.t.Helper()
	n.barrier()
	return n.lists.Positions()
}

// hears checks for whom the users changed since some positions, from memory and from the database.
func (n *node) hears(what, viewer string, since []int64, want ...string) {
	n.t.Helper()
	upto := n.heads()
	for _, from := range []string{"memory", "the database"} {
		kept := n.recentChanges.shards
		if from == "the database" {
			n.recentChanges.mu.Lock()
			n.recentChanges.shards = make([]changeWindow, n.lists.Shards())
			n.recentChanges.mu.Unlock()
		}
		got, err := n.ChangedUsers(n.t.Context(), viewer, since, upto)
		if err != nil || !slices.Equal(got, want) {
			n.t.Errorf("%s: from %s, %s hears of %v, %v, expected %v", what, from, viewer, got, err, want)
		}
		n.recentChanges.mu.Lock()
		n.recentChanges.shards = kept
		n.recentChanges.mu.Unlock()
	}
}

// TestADeviceWithoutKeysChangesTheList: a new log-in and the end of one, before any keys.
func TestADeviceWithoutKeysChangesTheList(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		since := n.heads()
		second := n.login("bob")
		n.hears("a log-in", alice.userID, since, bob.userID)
		since = n.heads()
		second.do("POST /logout", obj{}).want(200)
		n.hears("a logout", alice.userID, since, bob.userID)
		bob.do("POST /keys/upload", obj{"device_keys": bob.deviceKeys()}).want(200)
		since = n.heads()
		n.do("POST /login", "", obj{
			"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "bob"}, "password": password,
			"device_id": bob.deviceID,
		}).
			want(200)
		n.hears("a log-in with known keys", alice.userID, since)

		ctx := context.Background()
		since = n.heads()
		if _, _, err := n.accounts.IssueToken(ctx, bob.userID, "a tool"); err != nil {
			t.Fatal(err)
		}
		n.hears("a token of the operator", alice.userID, since, bob.userID)
		since = n.heads()
		if created, err := n.accounts.CreateDevice(ctx, bob.userID, "BRIDGE", ""); err != nil || !created {
			t.Fatal(created, err)
		}
		n.hears("a device of an application service", alice.userID, since, bob.userID)
		since = n.heads()
		if created, err := n.accounts.CreateDevice(ctx, bob.userID, bob.deviceID, ""); err != nil || created {
			t.Fatal(created, err)
		}
		n.hears("a device that exists, with keys", alice.userID, since)
	})
}

// TestAPrivateChangeIsForOneViewer: a user-signing key for its user, signatures on others for who made them.
func TestAPrivateChangeIsForOneViewer(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		const path = "POST /keys/device_signing/upload"
		of, other := alice.newIdentity(), bob.newIdentity()
		since := n.heads()
		alice.do(path, obj{"master_key": of.body["master_key"]}).want(200)
		bob.do(path, other.body).want(200)
		n.hears("master keys", bob.userID, since, alice.userID, bob.userID)
		since = n.heads()
		own := obj{"user_signing_key": of.body["user_signing_key"]}
		alice.confirm(path, own)
		n.hears("a user-signing key", bob.userID, since)
		n.hears("a user-signing key", alice.userID, since, alice.userID)
		since = n.heads()
		signed := sign(t, other.body["master_key"], alice.userID, public(of.user), of.user)
		if got := alice.do("POST /keys/signatures/upload", obj{bob.userID: obj{public(other.master): signed}}).want(200); got.get(
			"failures",
		).Raw != "{}" {
			t.Fatalf("%s", got.body)
		}
		n.hears("a signature on another", bob.userID, since)
		n.hears("a signature on another", alice.userID, since, bob.userID)
		since = n.heads()
		own = obj{"self_signing_key": of.body["self_signing_key"]}
		alice.confirm(path, own)
		n.hears("a self-signing key", bob.userID, since, alice.userID)
	})
}
