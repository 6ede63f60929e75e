package role

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"lyceum/platform/rpc"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// A client whose request met a moving shard for too long is told to try again, whatever each attempt failed with.
func TestWhatMovesIsAnswered(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{errMoved, http.StatusServiceUnavailable},
		{stream.ErrAborted, http.StatusServiceUnavailable},
		{fmt.Errorf("call: %w", rpc.ErrBroken), http.StatusServiceUnavailable},
		{fmt.Errorf("call: %w", rpc.ErrUnreachable), http.StatusServiceUnavailable},
		{errors.New("a fault"), http.StatusInternalServerError},
	} {
		got := clientError(c.err)
		if status := web.AnswerOf(got).HTTPStatus(); status != c.status || !errors.Is(got, c.err) {
			t.Errorf("%v is answered with %d, %v", c.err, status, got)
		}
	}
}
