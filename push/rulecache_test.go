package push

import (
	"fmt"
	"testing"
)

// BenchmarkRulesOf is a look-up of rules that are cached, by several requests at once.
func BenchmarkRulesOf(b *testing.B) {
	p := &Push{}
	p.rules.init(20_000)
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprintf("@user%d:here.test", i)
		p.rules.store(ids[i], &userRules{}, 0)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := p.rulesOf(b.Context(), ids[i%len(ids)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
