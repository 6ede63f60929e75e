package conf_test

import (
	"strings"
	"testing"

	"lyceum/platform/conf"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string][2]string{ // redacted, without passwords
		"redis://:sesame@host:6379":                     {"redis://:(secret)@host:6379", "redis://host:6379"},
		"rediss://me:sesame@host":                       {"rediss://me:(secret)@host", "rediss://host"},
		"redis://me:hu@sh@host:1":                       {"redis://me:(secret)@host:1", "redis://host:1"},
		"redis://me:hu/sh@host:1":                       {"redis://me:(secret)@host:1", "redis://host:1"},
		"redis://me:hu%zzsh@host:1":                     {"redis://me:(secret)@host:1", "redis://host:1"},
		"me:sesame@host:6379":                           {"me:(secret)@host:6379", "host:6379"},
		":sesame@host:6379":                             {":(secret)@host:6379", "host:6379"},
		"http://collector/v1?api_key=sesame&x=1":        {"http://collector/v1?api_key=(secret)&x=1", "http://collector/v1?api_key=&x=1"},
		"dial postgres://u:sesame@db:5432/x: refused":   {"dial postgres://u:(secret)@db:5432/x: refused", "dial postgres://db:5432/x: refused"},
		`["redis://:sesame@a:1","redis://:sesame@b:1"]`: {`["redis://:(secret)@a:1","redis://:(secret)@b:1"]`, `["redis://a:1","redis://b:1"]`},
		"redis://:sesame@a:1,redis://:sesame@b:1":       {"redis://:(secret)@a:1,redis://:(secret)@b:1", ""},
		"https://example.org:8443/@user:example.org": {
			"https://example.org:8443/@user:example.org",
			"https://example.org:8443/@user:example.org",
		},
		"@alice:example.org":        {"@alice:example.org", "@alice:example.org"},
		"admin@example.org":         {"admin@example.org", "admin@example.org"},
		"host:6379":                 {"host:6379", "host:6379"},
		"[::1]:6379":                {"[::1]:6379", "[::1]:6379"},
		"https://example.org/a?b=c": {"https://example.org/a?b=c", "https://example.org/a?b=c"},
	} {
		if got := conf.Redact(in); got != want[0] && (want[1] != "" || strings.Contains(got, "sesame")) {
			t.Errorf("%s: %s, expected %s", in, got, want[0])
		}
		if got := conf.WithoutPasswords(in); got != want[1] && want[1] != "" {
			t.Errorf("%s: %s, expected %s", in, got, want[1])
		}
	}
}
