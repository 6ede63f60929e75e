package fleettest_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/fleettest"
)

// TestRouterIsReplacedWithoutALostRequest restarts the router again and again while clients open a connection for each
// request: all share the socket of the supervisor, and none is closed without an answer.
func TestRouterIsReplacedWithoutALostRequest(t *testing.T) {
	f := fleettest.Split(t)
	var stop atomic.Bool
	var sent atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	for range 16 {
		wg.Go(func() {
			for !stop.Load() {
				res, err := client.Get(f.URL() + "/_matrix/client/versions")
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					if err == nil && res.StatusCode != http.StatusOK {
						err = fmt.Errorf("answered %s", res.Status)
					}
				}
				if err != nil {
					t.Error(err)
				}
				sent.Add(1)
			}
		})
	}
	for range 6 {
		if err := f.Restart(t.Context(), f.Child(t, "router-1")); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	f.AwaitHealthy(t)
	t.Logf("%d requests", sent.Load())
}
