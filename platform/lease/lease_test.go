package lease_test

import (
	"path/filepath"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/lease/leasetest"
)

func TestLeases(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		leasetest.Run(t, func(t *testing.T) *db.DB {
			return dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), lease.Migrations())
		})
	})
	t.Run("postgres", func(t *testing.T) {
		leasetest.Run(t, func(t *testing.T) *db.DB {
			return dbtest.Open(t, enginestest.TestPostgres(t), lease.Migrations())
		})
	})
}
