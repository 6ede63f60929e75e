package state

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Key names one piece of state.
type Key struct{ Type, StateKey string }

// ID is the first 16 bytes of the SHA-256 of a node's text. The zero ID is the empty state.
type ID [16]byte

// Entry is one piece of state and the event that set it.
type Entry struct {
	Key
	EventID string
}

// Node is a node that must be stored.
type Node struct {
	ID   ID
	Text []byte
}

// Loader reads stored nodes. It is called with ids that a tree refers to.
type Loader interface {
	LoadNodes(ctx context.Context, ids []ID) (map[ID][]byte, error)
}

const (
	leafSize = 24 // most entries of a leaf
	// 5 bits of a hash for each level. Keys can be made whose fast hashes are the same: below that many levels another
	// hash goes on, for which nobody can. Leaves of former versions may be there and larger than leafSize.
	fastDepth = 12
	maxDepth  = fastDepth + 51
)

// node is a leaf with entries in the order of their hashes and keys, or a branch with a child for each
// set bit.
type node struct {
	id       ID
	leaf     bool
	entries  []Entry
	bitmap   uint32
	children []child
}

// child is loaded when node is not nil.
type child struct {
	id   ID
	node *node
}

// Tree is one immutable state.
type Tree struct {
	root  child
	store *Store
}

// Open gives the tree with a root; nothing is read yet.
func Open(root ID, store *Store) Tree { return Tree{root: child{id: root}, store: store} }

// Root identifies the state.
func (t Tree) Root() ID { return t.root.id }

// path is the way to a key: the slot at each level.
type path struct {
	key  Key
	fast uint64
}

func pathOf(k Key) path {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(k.Type) // a Digest does not fail
	_, _ = d.Write([]byte{0})
	_, _ = d.WriteString(k.StateKey)
	return path{k, d.Sum64()}
}

func (p path) slot(depth int) uint {
	if depth < fastDepth {
		return uint(p.fast>>(5*depth)) & 31
	}
	sum := sha256.Sum256([]byte(p.key.Type + "\x00" + p.key.StateKey))
	bit := 5 * (depth - fastDepth)
	two := uint(sum[bit/8])<<8 | uint(sum[min(bit/8+1, len(sum)-1)])
	return two >> (11 - bit%8) & 31
}

// resolve loads the node of a child.
func (t Tree) resolve(ctx context.Context, c child) (*node, error) {
	if c.node != nil {
		return c.node, nil
	}
	if c.id == (ID{}) {
		return &node{leaf: true}, nil
	}
	if n, ok := t.store.cache.GetIfPresent(c.id); ok {
		return n, nil
	}
	nodes, err := t.store.load(ctx, []ID{c.id})
	if err != nil {
		return nil, err
	}
	return nodes[c.id], nil
}

// Get finds the event of a key; "" when the state has none.
func (t Tree) Get(ctx context.Context, k Key) (eventID string, err error) {
	p := pathOf(k)
	c := t.root
	for depth := 0; ; depth++ {
		n, err := t.resolve(ctx, c)
		if err != nil {
			return "", err
		}
		if n.leaf {
			for _, e := range n.entries {
				if e.Key == k {
					return e.EventID, nil
				}
			}
			return "", nil
		}
		i, ok := n.index(p.slot(depth))
		if !ok {
			return "", nil
		}
		c = n.children[i]
	}
}

// Preload gives the same tree with the nodes on the way to some keys in memory, and about how many bytes they added: Get and
// Set of these keys read nothing from the database, nor do they on the trees that Set makes of it.
func (t Tree) Preload(ctx context.Context, keys ...Key) (Tree, int, error) {
	bytes := 0
	for _, k := range keys {
		root, err := t.preload(ctx, t.root, pathOf(k), 0, &bytes)
		if err != nil {
			return t, 0, err
		}
		t.root = root
	}
	return t, bytes, nil
}

// Unload is the same tree with nothing of it in memory but the unstored nodes. The nodes above an unstored one are
// unstored too, so they stay.
func (t Tree) Unload(unstored map[ID]bool) Tree {
	return Tree{root: t.root.unload(unstored), store: t.store}
}

func (c child) unload(unstored map[ID]bool) child {
	switch {
	case c.node == nil || !unstored[c.id]:
		return child{id: c.id}
	case c.node.leaf:
		return c
	}
	n := &node{id: c.node.id, bitmap: c.node.bitmap, children: make([]child, len(c.node.children))}
	for i, below := range c.node.children {
		n.children[i] = below.unload(unstored)
	}
	return child{id: c.id, node: n}
}

func (t Tree) preload(ctx context.Context, c child, p path, depth int, bytes *int) (child, error) {
	n, err := t.resolve(ctx, c)
	if err != nil {
		return c, err
	}
	if c.node == nil {
		*bytes += int(n.size())
	}
	c.node = n
	i, ok := n.index(p.slot(depth))
	if n.leaf || !ok {
		return c, nil
	}
	below, err := t.preload(ctx, n.children[i], p, depth+1, bytes)
	if err != nil || below.node == n.children[i].node {
		return c, err
	}
	c.node = &node{id: n.id, bitmap: n.bitmap, children: slices.Clone(n.children)}
	c.node.children[i] = below
	return c, nil
}

// index is where the child of a slot is, or would be.
func (n *node) index(slot uint) (int, bool) {
	return bits.OnesCount32(n.bitmap & (1<<slot - 1)), n.bitmap&(1<<slot) != 0
}

// Set gives the tree with one more change and the nodes that it added.
func (t Tree) Set(ctx context.Context, e Entry) (Tree, []Node, error) {
	change := treeChange{entry: e, path: pathOf(e.Key)}
	root, err := t.set(ctx, t.root, 0, &change)
	if err != nil {
		return t, nil, err
	}
	return Tree{root: child{id: root.id, node: root}, store: t.store}, change.added, nil
}

// treeChange is one change of a tree, and the nodes that it added so far.
type treeChange struct {
	entry Entry
	path  path
	added []Node
}

// set gives the node that replaces the one of c, at a depth, after a change.
func (t Tree) set(ctx context.Context, c child, depth int, change *treeChange) (*node, error) {
	n, err := t.resolve(ctx, c)
	if err != nil {
		return nil, err
	}
	if n.leaf {
		entries := slices.Clone(n.entries)
		if i := slices.IndexFunc(entries, func(x Entry) bool { return x.Key == change.entry.Key }); i >= 0 {
			entries[i] = change.entry
		} else {
			entries = append(entries, change.entry)
		}
		return build(entries, depth, &change.added), nil
	}
	out := &node{bitmap: n.bitmap, children: slices.Clone(n.children)}
	s := change.path.slot(depth)
	i, ok := n.index(s)
	if !ok {
		out.bitmap |= 1 << s
		out.children = slices.Insert(out.children, i, child{})
	}
	below, err := t.set(ctx, out.children[i], depth+1, change)
	if err != nil {
		return nil, err
	}
	out.children[i] = child{id: below.id, node: below}
	out.seal(&change.added)
	return out, nil
}

// Build makes a tree of many entries at once.
func Build(entries []Entry, store *Store) (Tree, []Node) {
	if len(entries) == 0 {
		return Tree{store: store}, nil
	}
	var added []Node
	root := build(slices.Clone(entries), 0, &added)
	return Tree{root: child{id: root.id, node: root}, store: store}, added
}

func build(entries []Entry, depth int, added *[]Node) *node {
	if len(entries) <= leafSize || depth == maxDepth {
		slices.SortFunc(entries, func(a, b Entry) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.StateKey, b.StateKey))
		})
		n := &node{leaf: true, entries: entries}
		n.seal(added)
		return n
	}
	var groups [32][]Entry
	for _, e := range entries {
		s := pathOf(e.Key).slot(depth)
		groups[s] = append(groups[s], e)
	}
	n := &node{}
	for s, g := range groups {
		if len(g) > 0 {
			below := build(g, depth+1, added)
			n.bitmap |= 1 << s
			n.children = append(n.children, child{id: below.id, node: below})
		}
	}
	n.seal(added)
	return n
}

// seal computes the id of a new node.
func (n *node) seal(added *[]Node) {
	text := n.encode()
	sum := sha256.Sum256(text)
	copy(n.id[:], sum[:])
	*added = append(*added, Node{n.id, text})
}

// encode writes 'l' and the entries as length-prefixed strings, or 'b', the bitmap and the ids.
func (n *node) encode() []byte {
	if !n.leaf {
		b := binary.BigEndian.AppendUint32([]byte{'b'}, n.bitmap)
		for _, c := range n.children {
			b = append(b, c.id[:]...)
		}
		return b
	}
	size := 1
	for _, e := range n.entries {
		size += len(e.Type) + len(e.StateKey) + len(e.EventID) + 6
	}
	b := append(make([]byte, 0, size), 'l')
	for _, e := range n.entries {
		for _, s := range []string{e.Type, e.StateKey, e.EventID} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return b
}

var errNode = errors.New("a state node is missing or damaged")

func decode(id ID, text []byte) (*node, error) {
	bad := fmt.Errorf("%w: %x", errNode, id)
	if len(text) == 0 {
		return nil, bad
	}
	n := &node{id: id, leaf: text[0] == 'l'}
	b := text[1:]
	if !n.leaf {
		if len(b) < 4 {
			return nil, bad
		}
		n.bitmap, b = binary.BigEndian.Uint32(b), b[4:]
		if len(b) != 16*bits.OnesCount32(n.bitmap) {
			return nil, bad
		}
		n.children = make([]child, len(b)/16)
		for i := range n.children {
			copy(n.children[i].id[:], b[16*i:])
		}
		return n, nil
	}
	all := string(b) // once, instead of three texts for each entry
	next := func() string {
		size, k := binary.Uvarint(b)
		if k <= 0 || size > uint64(len(b)-k) {
			b = nil
			n = nil
			return ""
		}
		from := len(all) - len(b) + k
		b = b[k+int(size):]
		return all[from : from+int(size)]
	}
	for len(b) > 0 {
		e := Entry{Key: Key{next(), ""}}
		if n != nil {
			e.StateKey = next()
		}
		if n != nil {
			e.EventID = next()
		}
		if n == nil {
			return nil, bad
		}
		n.entries = append(n.entries, e)
	}
	return n, nil
}

// All gives the whole state in no particular order.
func (t Tree) All(ctx context.Context) ([]Entry, error) {
	var out []Entry
	err := t.walk(ctx, []child{t.root}, func(e Entry) { out = append(out, e) })
	return out, err
}

// walkAtOnce is how many nodes Walk has in hand.
const walkAtOnce = 256

// Walk gives the state in parts of at most some thousand entries, in no particular order, and ends with the first error.
// Unlike All it holds a part of a large state at a time.
func (t Tree) Walk(ctx context.Context, visit func([]Entry) error) error {
	for open := []child{t.root}; len(open) > 0; {
		n := min(walkAtOnce, len(open))
		nodes, err := t.resolveAll(ctx, open[len(open)-n:])
		if err != nil {
			return err
		}
		open = open[:len(open)-n]
		var part []Entry
		for _, n := range nodes {
			part = append(part, n.entries...)
			open = append(open, n.children...)
		}
		if len(part) > 0 {
			if err := visit(part); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk visits all entries below some nodes, and loads one level at a time in one call.
func (t Tree) walk(ctx context.Context, level []child, visit func(Entry)) error {
	for len(level) > 0 {
		nodes, err := t.resolveAll(ctx, level)
		if err != nil {
			return err
		}
		level = nil
		for _, n := range nodes {
			for _, e := range n.entries {
				visit(e)
			}
			level = append(level, n.children...)
		}
	}
	return nil
}

func (t Tree) resolveAll(ctx context.Context, cs []child) ([]*node, error) {
	var missing []ID
	for _, c := range cs {
		if c.node == nil && c.id != (ID{}) {
			missing = append(missing, c.id)
		}
	}
	var loaded map[ID]*node
	if len(missing) > 0 {
		var err error
		if loaded, err = t.store.load(ctx, missing); err != nil {
			return nil, err
		}
	}
	out := make([]*node, len(cs))
	for i, c := range cs {
		switch {
		case c.node != nil:
			out[i] = c.node
		case c.id == (ID{}):
			out[i] = &node{leaf: true}
		default:
			out[i] = loaded[c.id]
		}
	}
	return out, nil
}

// Change is one difference between two states; an event id is "" where a state has nothing.
type Change struct {
	Key
	Old, New string
}

// Diff gives what differs in t against old. It reads only nodes that the two do not share.
func (t Tree) Diff(ctx context.Context, old Tree) ([]Change, error) {
	before, after := map[Key]string{}, map[Key]string{}
	if err := t.diff(ctx, old.root, t.root, before, after); err != nil {
		return nil, err
	}
	var out []Change
	for k, id := range after {
		if before[k] != id {
			out = append(out, Change{k, before[k], id})
		}
	}
	for k, id := range before {
		if _, ok := after[k]; !ok {
			out = append(out, Change{k, id, ""})
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.StateKey, b.StateKey))
	})
	return out, nil
}

func (t Tree) diff(ctx context.Context, a, b child, before, after map[Key]string) error {
	if a.id == b.id {
		return nil
	}
	nodes, err := t.resolveAll(ctx, []child{a, b})
	if err != nil {
		return err
	}
	x, y := nodes[0], nodes[1]
	if x.leaf || y.leaf {
		collect := func(n *node, into map[Key]string) error {
			for _, e := range n.entries {
				into[e.Key] = e.EventID
			}
			return t.walk(ctx, n.children, func(e Entry) { into[e.Key] = e.EventID })
		}
		return errors.Join(collect(x, before), collect(y, after))
	}
	for s := uint(0); s < 32; s++ {
		var cx, cy child
		if i, ok := x.index(s); ok {
			cx = x.children[i]
		}
		if i, ok := y.index(s); ok {
			cy = y.children[i]
		}
		if err := t.diff(ctx, cx, cy, before, after); err != nil {
			return err
		}
	}
	return nil
}

// Bytes is the id as it is stored: no bytes, not nil, for the empty state.
func (id ID) Bytes() []byte {
	if id == (ID{}) {
		return []byte{}
	}
	return bytes.Clone(id[:])
}

// IDFrom reads a stored id.
func IDFrom(b []byte) (id ID) {
	copy(id[:], b)
	return id
}
