package state

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"testing"

	"pgregory.net/rapid"
)

type memory map[ID][]byte

func (m memory) LoadNodes(_ context.Context, ids []ID) (map[ID][]byte, error) {
	out := map[ID][]byte{}
	for _, id := range ids {
		out[id] = m[id]
	}
	return out, nil
}

func (m memory) store(nodes []Node) {
	for _, n := range nodes {
		m[n.ID] = n.Text
	}
}

func asMap(entries []Entry) map[Key]string {
	out := map[Key]string{}
	for _, e := range entries {
		out[e.Key] = e.EventID
	}
	return out
}

func TestWalkGivesTheWholeStateInParts(t *testing.T) {
	ctx := context.Background()
	for _, n := range []int{0, 1, 24, 25, 1000, 30_000} {
		var entries []Entry
		for i := range n {
			entries = append(entries, Entry{Key{"m.room.member", fmt.Sprint("@", i)}, fmt.Sprint("$", i)})
		}
		stored := memory{}
		tree, nodes := Build(entries, NewStore(stored, 1<<20))
		stored.store(nodes)
		found, parts := map[Key]string{}, 0
		err := Open(tree.Root(), NewStore(stored, 1<<20)).Walk(ctx, func(part []Entry) error {
			if parts++; len(part) > walkAtOnce*leafSize {
				t.Errorf("%d entries at once", len(part))
			}
			for _, e := range part {
				if found[e.Key] != "" {
					t.Errorf("%v came twice", e)
				}
				found[e.Key] = e.EventID
			}
			return nil
		})
		if err != nil || !maps.Equal(found, asMap(entries)) {
			t.Errorf("%d of %d entries, %v", len(found), n, err)
		}
		if n > 10*walkAtOnce*leafSize/10 && parts < 3 {
			t.Errorf("%d entries came in %d parts", n, parts)
		}
	}
}

func TestTreeIsAMapWithHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		stored := memory{}
		open := func(root ID) Tree { return Open(root, NewStore(stored, 1<<20)) }
		tree := open(ID{})
		model := map[Key]string{}
		var trees []Tree
		var models []map[Key]string
		for i := range rapid.IntRange(1, 300).Draw(t, "changes") {
			e := Entry{Key{"t", fmt.Sprint(rapid.IntRange(0, 150).Draw(t, "key"))}, fmt.Sprint("$", i)}
			next, added, err := tree.Set(ctx, e)
			if err != nil {
				t.Fatal(err)
			}
			stored.store(added)
			model[e.Key] = e.EventID
			tree = open(next.Root()) // as another process reads it
			if rapid.Bool().Draw(t, "kept in memory") {
				tree = next
			}
			trees, models = append(trees, tree), append(models, maps.Clone(model))
		}
		all, err := tree.All(ctx)
		if err != nil || !maps.Equal(asMap(all), model) {
			t.Fatalf("expected %v, found %v, %v", model, all, err)
		}
		built, _ := Build(all, tree.store)
		i := rapid.IntRange(0, len(trees)-1).Draw(t, "old")
		changes, err := tree.Diff(ctx, trees[i])
		if err != nil {
			t.Fatal(err)
		}
		old := maps.Clone(models[i])
		for _, c := range changes {
			if old[c.Key] != c.Old {
				t.Fatalf("change %v: the old state had %q", c, old[c.Key])
			}
			old[c.Key] = c.New
		}
		if !maps.Equal(old, model) {
			t.Fatalf("expected %v after the changes, found %v", model, old)
		}
		for k, id := range model {
			for _, tr := range []Tree{tree, built} {
				if got, err := tr.Get(ctx, k); err != nil || got != id {
					t.Fatalf("%v: expected %s, found %s, %v", k, id, got, err)
				}
			}
		}
	})
}

func TestOneChangeAddsFewNodes(t *testing.T) {
	ctx := context.Background()
	stored := memory{}
	var entries []Entry
	for i := range 20_000 {
		entries = append(entries, Entry{Key{"m.room.member", fmt.Sprintf("@user%d:example.org", i)}, fmt.Sprint("$event", i)})
	}
	tree, nodes := Build(entries, NewStore(stored, 1<<20))
	stored.store(nodes)
	tree = Open(tree.Root(), NewStore(stored, 1<<20))
	_, added, err := tree.Set(ctx, Entry{Key{"m.room.member", "@new:example.org"}, "$new"})
	if err != nil || len(added) > 5 {
		t.Fatalf("a change of a state with 20,000 entries added %d nodes, %v", len(added), err)
	}
}

func FuzzDecode(f *testing.F) {
	_, nodes := Build([]Entry{{Key{"a", "b"}, "$c"}}, nil)
	f.Add(nodes[0].Text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if n, err := decode(ID{}, text); err == nil && len(text) > 0 {
			_ = n.encode()
		}
	})
}

// colliding gives keys with the same fast hash: what one block of 32 bytes does to a lane, the next one undoes.
func colliding(n int) []Key {
	const p1, p2 = uint64(11400714785074694791), uint64(14029467366897019727)
	inverse := p2 // Newton: each step doubles the bits that are right
	for range 6 {
		inverse *= 2 - p2*inverse
	}
	const typ = "org.example.type.of.31.bytes...." // with the NUL behind it 32 bytes
	lane := func(v, x uint64) uint64 { return bits.RotateLeft64(v+x*p2, 31) * p1 }
	first := p1
	first += p2 // wraps, as the hash does
	start := lane(first, binary.LittleEndian.Uint64([]byte(typ)))
	keys := make([]Key, n)
	for i := range keys {
		one := uint64(i)
		two := (12345 - lane(start, one)) * inverse
		block := make([]byte, 64)
		binary.LittleEndian.PutUint64(block, one)
		binary.LittleEndian.PutUint64(block[32:], two)
		keys[i] = Key{typ[:31], string(block)}
	}
	return keys
}

func TestKeysThatCollideMakeNoLargeLeaf(t *testing.T) {
	keys := colliding(500)
	for _, k := range keys {
		if pathOf(k).fast != pathOf(keys[0]).fast {
			t.Fatal("the keys do not collide: the test shows nothing")
		}
	}
	stored := memory{}
	store := NewStore(stored, 1<<20)
	tree := Open(ID{}, store)
	for i, k := range keys {
		next, added, err := tree.Set(t.Context(), Entry{k, fmt.Sprint("$", i)})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range added {
			if len(n.Text) > leafSize*128 {
				t.Fatalf("a node of %d bytes after %d keys", len(n.Text), i+1)
			}
		}
		stored.store(added)
		tree = next
	}
	again := Open(tree.Root(), store)
	for i, k := range keys {
		if id, err := again.Get(t.Context(), k); err != nil || id != fmt.Sprint("$", i) {
			t.Fatalf("key %d: %q, %v", i, id, err)
		}
	}
	preloaded, bytes, err := again.Preload(t.Context(), keys...)
	if err != nil || preloaded.Root() != again.Root() || bytes < 500*100 {
		t.Fatalf("%d bytes preloaded, %v", bytes, err)
	}
	clear(stored) // nothing is read any more
	preloaded.store = NewStore(stored, 1<<20)
	if _, _, err := preloaded.Set(t.Context(), Entry{keys[77], "$new"}); err != nil {
		t.Fatal(err)
	}
}
