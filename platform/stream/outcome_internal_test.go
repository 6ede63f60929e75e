package stream

import (
	"errors"
	"net/http"
	"testing"

	"lyceum/platform/db"
)

// TestWhatIsNotAnnouncedIsTriedAgain: a process that ends before the others hear of a write does not know whether they will. The client is
// told to try again, not of a fault of the server.
func TestWhatIsNotAnnouncedIsTriedAgain(t *testing.T) {
	var answer interface{ HTTPStatus() int }
	if !errors.As(&db.CommitError{Err: errNotAnnounced}, &answer) || answer.HTTPStatus() != http.StatusServiceUnavailable {
		t.Errorf("the answer is %v", answer)
	}
}
