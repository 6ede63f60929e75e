package accounts

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lyceum/matrix"
)

// TestAccountDataHasAQuota: also for requests at once, and never for what makes a piece smaller.
func TestAccountDataHasAQuota(t *testing.T) {
	runWith(t, Deps{}, testConfig(), func(t *testing.T, n *node) {
		a := n.Accounts
		ctx, user := t.Context(), "@quota:here.test"
		piece := func(size int) json.RawMessage {
			return json.RawMessage(`{"x":"` + strings.Repeat("x", size-8) + `"}`)
		}
		const size = maxDataBytes / 8
		var taken atomic.Int64
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				err := a.PutAccountData(ctx, user, "", fmt.Sprint("t.", i), piece(size))
				switch {
				case err == nil:
					taken.Add(1)
				case !matrix.HasCode(err, matrix.CodeTooLarge):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if taken.Load() != 7 { // the names take the rest
			t.Errorf("%d pieces of an eighth were taken, expected 7", taken.Load())
		}
		all, err := a.AllAccountData(ctx, user)
		if err != nil || len(all) != 7 {
			t.Fatal(len(all), err)
		}
		if err := a.PutAccountData(ctx, user, "", all[0].Type, piece(size)); err != nil {
			t.Errorf("the same once more: %v", err)
		}
		if err := a.PutAccountData(ctx, user, "", all[0].Type, json.RawMessage(`{}`)); err != nil {
			t.Errorf("less: %v", err)
		}
		if err := a.PutAccountData(ctx, user, "!r:x", "t.other", piece(size)); err != nil {
			t.Errorf("there is room again: %v", err)
		}
		if err := a.PutAccountData(ctx, "@other:here.test", "", "t.other", piece(size)); err != nil {
			t.Errorf("another user: %v", err)
		}
	})
}
