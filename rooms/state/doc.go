// Package state keeps the state of a room (type and state key to event id) as a persistent hash trie.
//
// A change makes new nodes only on the path from the changed leaf to the root, O(log n), and shares all
// others with the trees before it. A node's id is the hash of its text, so equal states have equal
// roots, and two trees are compared by walking only where their ids differ.
package state
