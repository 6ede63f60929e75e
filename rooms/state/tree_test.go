package state

import (
	"context"
	"fmt"
	"maps"
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
