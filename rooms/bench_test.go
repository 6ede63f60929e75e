package rooms

import (
	"path/filepath"
	"testing"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

func openBench(b *testing.B) *db.DB {
	url := "sqlite:" + filepath.Join(b.TempDir(), "bench.db")
	if testing.Short() {
		url = enginestest.TestPostgres(b)
	}
	return dbtest.Open(b, url, lease.Migrations(), accounts.Migrations(), Migrations())
}
