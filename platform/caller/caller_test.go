package caller_test

import (
	"context"
	"testing"
	"time"

	"lyceum/platform/caller"
)

func TestAContextKnowsItsWork(t *testing.T) {
	if w := caller.Of(t.Context()); w != nil {
		t.Errorf("found %v, expected none", w.ID())
	}
	outer, end := context.WithCancel(t.Context())
	w := caller.NewWork(outer, caller.ID{})
	inner, stop := context.WithTimeout(context.WithValue(w, t, "value"), time.Hour)
	defer stop()
	w.SetID(caller.ID{User: "@alice:example.org"})
	for name, ctx := range map[string]context.Context{"inside": inner, "without its end": context.WithoutCancel(inner)} {
		if found := caller.Of(ctx); found != w || found.ID().User != "@alice:example.org" {
			t.Errorf("%s: found %v", name, found)
		}
		if ctx.Value(t) != "value" {
			t.Errorf("%s: the other values are lost", name)
		}
	}
	if found := caller.Of(caller.Nobody(inner)); found != nil {
		t.Errorf("nobody: found %v", found)
	}
	end()
	if inner.Err() == nil {
		t.Error("it does not end with what it is inside of")
	}
}
