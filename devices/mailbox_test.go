package devices

import (
	"fmt"
	"strings"
	"testing"
)

// TestMailboxesAreBoundedInBytes: neither many devices nor long names of algorithms take more.
func TestMailboxesAreBoundedInBytes(t *testing.T) {
	m := newMailboxes(100)
	algorithms := map[string]int{}
	for i := range 200 {
		algorithms[fmt.Sprint(i, strings.Repeat("a", 200))] = i
	}
	for i := range 1000 {
		k := deviceKey{"@user:here.test", fmt.Sprint("D", i)}
		b := m.getOrAdd(k)
		if i%2 == 0 {
			m.setCounts(k, b, &KeyCounts{OneTime: algorithms})
		}
		sum := 0
		for k, b := range m.boxes {
			sum += k.bytes() + b.counts.bytes()
		}
		if sum != m.bytes || len(m.boxes) > 100 || sum > 100*mailboxBytes || m.boxes[k] != b {
			t.Fatalf("%d mailboxes take %d bytes, and are said to take %d", len(m.boxes), sum, m.bytes)
		}
	}
}
