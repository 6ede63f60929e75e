package accounts

import (
	"context"
	"fmt"
	"testing"

	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// TestSmallTokenCache evicts sessions all the time: the index by user stays as small as the cache, and a change of a user's
// sessions removes the remaining ones.
func TestSmallTokenCache(t *testing.T) {
	s := newSessions(3)
	hash := func(user, n int) tokenHash { return hashToken(fmt.Sprintf("%d/%d", user, n)) }
	for i := range 100 {
		user := i % 7
		_, changes := s.get(hash(user, i))
		s.put(hash(user, i), &session{identity: web.Identity{UserID: fmt.Sprint(user)}}, changes)
		indexed := 0
		for _, of := range s.byUser {
			indexed += len(of)
		}
		if len(s.tokens.entries) > 3 || indexed != len(s.tokens.entries) {
			t.Fatalf("%d sessions, %d in the index", len(s.tokens.entries), indexed)
		}
	}
	for user := range 7 {
		s.onRows([]stream.Row{{Key: fmt.Sprint(user)}})
	}
	if len(s.tokens.entries) != 0 || len(s.byUser) != 0 {
		t.Fatalf("left: %v %v", s.tokens.entries, s.byUser)
	}
	// A session that was read before a change is not kept.
	_, changes := s.get(hash(1, 1))
	s.onRows([]stream.Row{{Key: "1"}})
	s.put(hash(1, 1), &session{identity: web.Identity{UserID: "1"}}, changes)
	if found, _ := s.get(hash(1, 1)); found != nil {
		t.Fatal("an old session was kept")
	}
}

// benchNode is a process over SQLite.
func benchNode(b *testing.B) *node {
	b.Helper()
	d := dbtest.Open(b, "sqlite:"+b.TempDir()+"/bench.db", lease.Migrations(), Migrations())
	return wire(b, roletest.New(b, d), Deps{}, testConfig())
}

func BenchmarkAuthenticate(b *testing.B) {
	n := benchNode(b)
	userID, err := n.CreateUser(context.Background(), NewUser{Name: "alice"})
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := n.IssueToken(context.Background(), userID, "")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.Authenticate(context.Background(), token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkErased(b *testing.B) {
	n := benchNode(b)
	users := make([]string, 20)
	for i := range users {
		users[i] = fmt.Sprintf("@user%d:here.test", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.Erased(context.Background(), users); err != nil {
				b.Error(err)
			}
		}
	})
}
