package users

import (
	"testing"

	"lyceum/ops/opstest"
)

// TestATakenNameIsSaid: in words, without what the database said.
func TestATakenNameIsSaid(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		c, _, _ := opstest.Server(t, engine)
		c.Server.Name, c.Fleet.Secret = "example.org", "a secret of sixteen"
		for i := range 2 {
			err := WithUsers(t.Context(), c, true, func(u *Users) error {
				_, err := u.Add(t.Context(), "alice", "password of alice", false)
				return err
			})
			if i == 0 && err != nil || i == 1 && (err == nil || err.Error() != "This user name is taken") {
				t.Errorf("%s, time %d: %v", engine, i, err)
			}
		}
	}
}
