package fleettest_test

import (
	"path/filepath"
	"strings"
	"testing"

	"lyceum/fleettest"
	"lyceum/platform/engines"
)

// TestAProcessThatDiffersIsRefused starts real processes beside a living fleet, each wrong in one thing.
func TestAProcessThatDiffersIsRefused(t *testing.T) {
	f := fleettest.Split(t)
	redis, err := engines.StartRedis(t.Context(), filepath.Join(t.TempDir(), "redis"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := redis.Stop(); err != nil {
			t.Error(err)
		}
	})
	noS3 := []string{"LYCEUM_BLOB_S3_ENDPOINT=", "LYCEUM_BLOB_S3_BUCKET=", "LYCEUM_BLOB_DIRECTORY=" + t.TempDir()}
	for name, test := range map[string]struct {
		environ []string
		want    []string
	}{
		"another limit":       {[]string{"LYCEUM_MEDIA_MAX_UPLOAD=1MiB"}, []string{"media.max_upload", "config_revision"}},
		"another server name": {[]string{"LYCEUM_SERVER_NAME=other.example"}, []string{"server.name"}},
		"another secret": {
			[]string{"LYCEUM_FLEET_SECRET_FILE=", "LYCEUM_FLEET_SECRET=quite another secret"},
			[]string{"fleet.secret"},
		},
		"another Redis":                     {[]string{"LYCEUM_REDIS_ADDRESSES=" + redis.URL()}, []string{"redis.addresses", "another Redis"}},
		"another bucket":                    {[]string{"LYCEUM_BLOB_S3_BUCKET=elsewhere"}, []string{"blob.s3.bucket"}},
		"a directory for files":             {noS3, []string{"blob"}},
		"the id of a living process":        {[]string{"MACHINE_ID=0"}, []string{"machine id", "0", "process"}},
		"a directory that is not shared":    {append(noS3, "LYCEUM_FLEET_CONFIG_REVISION=1"), []string{"blob"}},
		"a machine id that can not be":      {[]string{"MACHINE_ID=1024"}, []string{"machine_id", "1023"}},
		"a database over no Redis, no peer": {[]string{"LYCEUM_REDIS_ADDRESSES="}, []string{"redis.addresses"}},
	} {
		t.Run(name, func(t *testing.T) {
			said := f.Refused(t, test.environ...)
			for _, part := range test.want {
				if !strings.Contains(said, part) {
					t.Errorf("expected %q in what it said:\n%s", part, said)
				}
			}
		})
	}
	f.AwaitHealthy(t)
}
