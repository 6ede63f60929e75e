package fleet

import (
	"strings"
	"testing"

	"lyceum/platform/conf"
	"lyceum/platform/lease"
	"lyceum/platform/role"
)

func testConfig(t *testing.T, environ ...string) *Config {
	t.Helper()
	c, err := Load(conf.Sources{Environ: append([]string{
		"LYCEUM_DATABASE_URL=postgres://localhost/lyceum", "LYCEUM_REDIS_ADDRESSES=localhost:6379", "LYCEUM_FLEET_SECRET=a secret of the fleet",
	}, environ...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAdmitComparesConfigurations(t *testing.T) {
	secret := []byte("a secret of the fleet")
	mine := newMetadata(testConfig(t), secret)
	other := lease.Machine{ID: 3, Host: "b, process 7", Version: "1.4.2", Roles: []string{"events"}, Metadata: mine.text()}
	for name, test := range map[string]struct {
		environ []string
		version string
		want    []string // parts of the error; none: admitted
	}{
		"the same": {},
		"what a process has for itself": {environ: []string{
			"LYCEUM_FLEET_ROLES=sync", "LYCEUM_SERVER_LISTEN=127.0.0.1:9", "LYCEUM_OBS_LOG_LEVEL=debug", "LYCEUM_DATABASE_CONNECTIONS=5",
		}},
		"another limit": {
			environ: []string{"LYCEUM_MEDIA_MAX_UPLOAD=1MiB"},
			want:    []string{"media.max_upload", "machine 3", "config_revision to 1"},
		},
		"a secret of registration": {
			environ: []string{"LYCEUM_ACCOUNTS_SHARED_SECRET=0123456789abcdef"},
			want:    []string{"accounts.shared_secret"},
		},
		"another limit, on purpose": {environ: []string{"LYCEUM_MEDIA_MAX_UPLOAD=1MiB", "LYCEUM_FLEET_CONFIG_REVISION=1"}},
		"another name, even on purpose": {
			environ: []string{"LYCEUM_SERVER_NAME=other.example", "LYCEUM_FLEET_CONFIG_REVISION=1"},
			want:    []string{"server.name", "whole fleet"},
		},
		"another default of a newer version": {
			environ: []string{"LYCEUM_MEDIA_MAX_UPLOAD=1MiB"}, version: "1.5.0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			self := lease.Machine{ID: 4, Version: "1.4.2", Roles: []string{"sync"}}
			if test.version != "" {
				self.Version = test.version
			}
			err := acceptMember(newMetadata(testConfig(t, test.environ...), secret), false, sharedEngines{true, true})(self, []lease.Machine{other})
			if len(test.want) == 0 && err != nil {
				t.Fatal(err)
			}
			for _, part := range test.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("expected an error with %q, found: %v", part, err)
				}
			}
		})
	}
}

func TestMachineZeroIsUpgradedFirst(t *testing.T) {
	zero := lease.Machine{ID: 0, Version: "1.4.2"}
	for name, test := range map[string]struct {
		self  lease.Machine
		given bool
		ok    bool
	}{
		"the same version":           {lease.Machine{ID: 2, Version: "1.4.2"}, true, true},
		"a newer one before zero":    {lease.Machine{ID: 2, Version: "1.4.3"}, true, false},
		"zero itself":                {lease.Machine{ID: 0, Version: "1.5.0"}, true, true},
		"automatic ids":              {lease.Machine{ID: 2, Version: "1.5.0"}, false, true},
		"an older one comes back":    {lease.Machine{ID: 2, Version: "1.3.0"}, true, true},
		"a command of a newer build": {lease.Machine{ID: 2, Version: "1.5.0", Roles: []string{role.NoRole}}, true, true},
	} {
		if err := acceptMember(Metadata{}, test.given, sharedEngines{true, true})(test.self, []lease.Machine{zero}); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
