package db_test

import (
	"strings"
	"testing"

	"lyceum/platform/db"
)

// TestAddressesTellNoPassword: nor is a part of one taken for a host, which would be looked up in the network.
func TestAddressesTellNoPassword(t *testing.T) {
	for _, address := range []string{
		"postgres://me:SECRET@127.0.0.1:notaport/x", "postgres://me:pw@SECRET@127.0.0.1/x", "postgres://me:pw/with@SECRET@127.0.0.1:1/b",
		"postgres://me:SEC@RET/x@127.0.0.1/x",
		"postgres://me:SEC/RET@127.0.0.1/x", "postgres://me:1/SECRET@127.0.0.1/x", "postgres://me:1?SECRET@127.0.0.1/x",
		"postgres://me:1#SECRET@127.0.0.1/x",
		"postgres://me:SECRET%zz@127.0.0.1/x", "postgres://me:SEC RET@127.0.0.1/x y", "postgres://me:SECRET@[::1/x",
		"postgres://me:SECRET@127.0.0.1/x?sslmode=SECURE",
		"postgres://127.0.0.1/x?password=SECRET&sslmode=no", "postgres://127.0.0.1:port/x?user=me&password=SECRET",
		"host=127.0.0.1 password=SECRET", "SECRET", "mysql://me:SECRET@127.0.0.1/x",
	} {
		if err := db.CheckAddress(address); err != nil {
			for _, part := range []string{"SEC", "RET", "pw"} {
				if strings.Contains(err.Error(), part) && !strings.Contains(err.Error(), "SECURE") {
					t.Errorf("%s: %v", address, err)
				}
			}
		} else if !strings.Contains(address, "SEC RET") {
			t.Errorf("%s was taken", address)
		}
	}
	for _, address := range []string{
		"postgres://me:SEC%40RET%2F@127.0.0.1:5432/x?sslmode=disable", "postgresql://me@h1:1,h2:2/x", "postgres:///x?host=/run/postgresql",
		"postgres://h/x?user=me@there", "postgres://h/x?sslmode=disable&user=me@there&password=a@b#c", "postgres://me:a!$&'()*+,;=-._~@h/x",
	} {
		if err := db.CheckAddress(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
