package web_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lyceum/platform/web"
)

// TestNamesOfRateLimitsAreListed: who writes a wrong name finds the right ones in the error and in the manual, which prints
// the help of the key.
func TestNamesOfRateLimitsAreListed(t *testing.T) {
	names := strings.Join(slices.Sorted(maps.Keys(web.DefaultRateLimits())), ", ")
	c := web.Config{RateLimits: map[string]web.RateLimit{"lgoin": {}}}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "expected one of "+names+", found \"lgoin\"") {
		t.Errorf("the error is %v", err)
	}
	f, _ := reflect.TypeFor[web.Config]().FieldByName("RateLimits")
	if help := f.Tag.Get("help"); !strings.Contains(help, "The names: "+names+".") {
		t.Errorf("the help is %q, expected in it: %s", help, names)
	}
}
