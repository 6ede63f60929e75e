package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"lyceum/fleet"
)

// Control asks the process that runs over the same data directory.
type Control struct {
	http *http.Client
	data string // the directory

	reportAfter, limit time.Duration // after which it is reported that an answer is waited for, and given up
	messages           io.Writer
}

// Running is nil when no process with the same database runs over the data directory.
func Running(c *fleet.Config) *Control {
	path := c.ControlSocket()
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil
	}
	_ = conn.Close() // it was only to see whether a process listens
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	client := &Control{
		http: &http.Client{Transport: &http.Transport{DialContext: dial}}, data: c.Server.Data,
		reportAfter: waitReportedAfter, limit: controlLimit, messages: os.Stderr,
	}
	if c.Embedded() {
		return client
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlWait)
	defer cancel()
	var database string
	if err := client.Call(ctx, http.MethodGet, "/database", nil, &database); err != nil || database != c.DatabaseFingerprint() {
		return nil
	}
	return client
}

// How long a command waits for a process that does not answer, until it says so and until it gives up.
const (
	waitReportedAfter = 5 * time.Second
	controlLimit      = 2 * time.Minute
)

// controlWait is how long a process is waited for that may be of a version without an answer.
const controlWait = 5 * time.Second

// Call sends body as JSON and reads the answer into out.
func (c *Control) Call(ctx context.Context, method, path string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	defer time.AfterFunc(c.reportAfter, func() {
		fmt.Fprintf(c.messages, "the process over %s has not answered for %s: it is waited for, up to %s\n", c.data, c.reportAfter, c.limit)
	}).Stop()
	req, err := http.NewRequestWithContext(wait, method, "http://control"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.unknown(ctx, method, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		message, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return errors.Join(errors.New(string(message)), err)
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return c.unknown(ctx, method, err)
	}
	return nil
}

// unknown says what is known when no answer came: for a question nothing is lost, but a change may have been made.
func (c *Control) unknown(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	what := "ended before it answered"
	if errors.Is(err, context.DeadlineExceeded) {
		what = "did not answer within " + c.limit.String() + " (is it stopped, or its machine?)"
	}
	if method == http.MethodGet {
		return fmt.Errorf("the process over %s %s: try again: %w", c.data, what, err)
	}
	return fmt.Errorf("the process over %s %s, so whether it did what was asked is not known: "+
		"look with lyceum user list, token list or reports list before you try again: %w", c.data, what, err)
}
