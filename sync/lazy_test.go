package sync

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// Memberships are given, confirmed and lost on the way as in a map from members to event ids.
func TestLazyMembersAsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLazyMembers()
		const device = "@a:b\x00D"
		var at vector
		has, pending := map[string]string{}, map[string]string{}
		l.end(device, nil, &at, []given{l.given("!r", "u0", "$first")})
		pending["u0"] = "$first"
		for step := range rapid.IntRange(1, 30).Draw(t, "answers") {
			from := at
			lost := step > 0 && rapid.IntRange(0, 3).Draw(t, "lost") == 0
			if lost {
				from[0]--
			}
			got := l.begin(device, &from)
			if lost {
				if step > 0 {
					pending = map[string]string{}
				}
			} else {
				for k, v := range pending {
					has[k] = v
				}
				pending = map[string]string{}
			}
			for n := range 6 {
				user := fmt.Sprint("u", n)
				for _, id := range []string{"$first", "$0", "$1", "$2"} {
					if want := has[user] == id; got.has(l.given("!r", user, id)) != want {
						t.Fatalf("step %d: the device has %s of %s: %v, expected %v", step, id, user, !want, want)
					}
				}
			}
			var answer []given
			for range rapid.IntRange(0, 5).Draw(t, "given") {
				user, id := fmt.Sprint("u", rapid.IntRange(0, 5).Draw(t, "user")), fmt.Sprint("$", rapid.IntRange(0, 2).Draw(t, "event"))
				answer = append(answer, l.given("!r", user, id))
				pending[user] = id
			}
			at = from
			at[0]++
			l.end(device, &from, &at, answer)
		}
	})
}
