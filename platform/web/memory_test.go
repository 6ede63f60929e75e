package web

import "testing"

// TestWhoGetsMemory is the rule of memoryBudget, with 800 bytes.
func TestWhoGetsMemory(t *testing.T) {
	for name, c := range map[string]struct {
		by       map[string]int64
		holds, n int64 // of the request of a
		want     verdict
		giver    string
	}{
		"nobody holds anything":                 {nil, 0, 50, fits, ""},
		"one answer may be larger than a share": {nil, 0, 700, fits, ""},
		"it grows while it is made":             {map[string]int64{"a": 300}, 300, 400, fits, ""},
		"nothing is larger than all":            {nil, 0, 801, full, ""},
		"a second within the share":             {map[string]int64{"a": 50}, 0, 50, fits, ""},
		"a second beyond the share":             {map[string]int64{"a": 50}, 0, 51, overShare, ""},
		"a second beside one that is larger":    {map[string]int64{"a": 300}, 0, 1, overShare, ""},
		"his own share comes first":             {map[string]int64{"a": 100, "b": 700}, 0, 1, overShare, ""},
		"a second while others leave a quarter": {map[string]int64{"a": 10, "b": 580}, 0, 10, fits, ""},
		"the last quarter is not for a second":  {map[string]int64{"a": 10, "b": 580}, 0, 11, full, ""},
		"the last quarter is for those without": {map[string]int64{"b": 300, "c": 300}, 0, 200, fits, ""},
		"the one that holds the most gives way": {map[string]int64{"b": 300, "c": 301}, 0, 200, cutOther, "c"},
		"not for one that would hold as much":   {map[string]int64{"b": 400, "c": 400}, 0, 400, full, ""},
		"not for one that grew as large":        {map[string]int64{"a": 350, "b": 400}, 350, 51, full, ""},
		"for one that grew and is smaller":      {map[string]int64{"a": 350, "b": 420}, 350, 50, cutOther, "b"},
		"many small ones do not give way for a large": {map[string]int64{
			"b": 90, "c": 90, "d": 90, "e": 90, "f": 90, "g": 90, "h": 90,
			"i": 90,
		}, 0, 100, full, ""},
		"many that hold their share give way for small": {map[string]int64{
			"b": 100, "c": 100, "d": 100, "e": 100, "f": 100, "g": 100,
			"h": 110, "i": 90,
		}, 0, 50, cutOther, "h"},
	} {
		f := newMemoryBudget(800)
		for who, n := range c.by {
			f.charged[who] = n
			f.total += n
		}
		if got, giver := f.decide("a", c.holds, c.n); got != c.want || giver != c.giver {
			t.Errorf("%s: found %d %q, expected %d %q", name, got, giver, c.want, c.giver)
		}
	}
}

// TestWhoMakesHowMuch is the rule of what handlers make, with 800 bytes.
func TestWhoMakesHowMuch(t *testing.T) {
	for name, c := range map[string]struct {
		by      map[string]int64
		made, n int64 // of the request of a
		want    verdict
	}{
		"nobody makes anything":                 {nil, 0, 900, fits},
		"alone it grows":                        {map[string]int64{"a": 500}, 500, 500, fits},
		"beside others within half":             {map[string]int64{"b": 300}, 0, 100, fits},
		"beside others beyond half":             {map[string]int64{"b": 300}, 0, 101, full},
		"it grows beside others":                {map[string]int64{"a": 100, "b": 200}, 100, 101, full},
		"a second within the share":             {map[string]int64{"a": 20}, 0, 30, fits},
		"a second beyond the share":             {map[string]int64{"a": 20}, 0, 31, overShare},
		"a second leaves something for a first": {map[string]int64{"a": 20, "b": 270}, 0, 11, full},
		"a first gets it":                       {map[string]int64{"b": 290}, 0, 110, fits},
	} {
		f := newMemoryBudget(800)
		for who, n := range c.by {
			f.addMade(who, n)
		}
		if got := f.decideMade("a", c.made, c.n); got != c.want {
			t.Errorf("%s: found %d, expected %d", name, got, c.want)
		}
	}
}
